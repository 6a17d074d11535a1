#!/bin/sh
# The tests on an emulated aarch64 machine: Debian's kernel for it under qemu, with a file system in memory that has the
# libraries, the C tests and the Rust tests. The last line is "N passed, N failed".  emulated.sh BUILD
# A whole machine, because qemu's emulation of processes alone has no userfaultfd, forgets pages that mremap has moved, and
# ends when a process with threads forks.
# From the environment: CARGO MAKE, ONLY (run what contains this text).
set -u
B=$1 TARGET=aarch64-unknown-linux-gnu TEST_CC=aarch64-linux-gnu-gcc
: "${CARGO:=cargo}" "${MAKE:=make}" "${ONLY:=}"
S=$PWD/$B/system
mkdir -p "$B/tests" "$S/apt/lists/partial" "$S/apt/archives/partial" || exit 1

skip_all() {
    echo "skipped: the tests on aarch64: $1"
    echo "0 passed, 0 failed"
    exit 0
}
for tool in $TEST_CC qemu-system-aarch64 cpio dpkg-deb apt-get; do
    command -v "$tool" >/dev/null || skip_all "there is no $tool"
done
[ -d "$(rustc --print sysroot)/lib/rustlib/$TARGET" ] ||
    skip_all "this Rust compiler has no $TARGET"

# The newest kernel for virtual machines that this machine's own Debian has, or its backports: for the first rung of the
# ladder it takes 6.8. Nothing of it is installed, and this machine's list of packages stays as it is.
apt_of_target() {
    command=$1
    shift
    "$command" -o Dir::Etc::sourcelist="$S/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$S/apt/lists" -o Dir::Cache="$S/apt" -o Dir::State::status="$S/apt/status" \
        -o APT::Architecture=arm64 -o APT::Architectures::=arm64 "$@" 2>/dev/null
}
fetch() {
    apt-get indextargets --format "\$(REPO_URI) \$(CODENAME)" "Created-By: Packages" "Origin: Debian" "Label: Debian" 2>/dev/null |
        awk '!seen[$0]++ && $2 !~ /-/ {
            for (i = 1; i <= 2; i++)
                print "deb [arch=arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $1, $2 (i == 2 ? "-backports" : ""), "main"
        }' >"$S/apt/sources.list"
    [ -s "$S/apt/sources.list" ] || return 1
    : >"$S/apt/status"
    apt_of_target apt-get update -qq >/dev/null
    kernel=$(apt_of_target apt-cache search --names-only '^linux-image-[0-9].*-cloud-arm64$' | cut -d ' ' -f 1 | sort -V | tail -n 1)
    [ -n "$kernel" ] && (cd "$S" && apt_of_target apt-get download -qq "$kernel" busybox-static >/dev/null) || return 1
    for package in "$S"/linux-image-*.deb "$S"/busybox-static_*.deb; do dpkg-deb -x "$package" "$S/files" || return 1; done
    rm -f "$S"/*.deb
    cp "$S"/files/boot/vmlinuz-* "$S/kernel"
    cp "$(find "$S/files" -path '*/bin/busybox')" "$S/busybox"
    rm -rf "$S/files"
}
{ [ -f "$S/kernel" ] && [ -f "$S/busybox" ]; } || fetch || skip_all "there is no kernel for it to be had"

$MAKE --no-print-directory CC=$TEST_CC CARGO_BUILD_TARGET=$TARGET B="$B" all "$B/libunimem_faults.so" || exit 1

wanted() {
    case $1 in *"$ONLY"*) ;; *) return 1 ;; esac
}
# Packages for that processor: of its architecture, with its libraries, and in need of its C library.
packages() {
    $MAKE --no-print-directory CC=$TEST_CC CARGO_BUILD_TARGET=$TARGET B="$B" deb && set -- "$B"/deb/*.deb && [ $# = 3 ] || return 1
    for package in "$@"; do
        [ "$(dpkg-deb --field "$package" Architecture)" = arm64 ] || return 1
        ! dpkg-deb --field "$package" Depends | grep -e cross -e : || return 1
    done
    dpkg-deb --field "$B"/deb/libunimem1_*.deb Depends | grep '^libc6 (' &&
        dpkg-deb --field "$B"/deb/unimem_*.deb Depends | grep 'libc6 (' &&
        dpkg-deb --contents "$B"/deb/libunimem1_*.deb | grep 'usr/lib/aarch64-linux-gnu/libunimem\.so\.1\.'
}
R=$S/root
rm -rf "$R"
mkdir -p "$R/bin" "$R/lib" "$R/programs" "$R$PWD" || exit 1
: >"$S/list"
echo "$PWD" >"$R/directory"
ALL=$B/test.tap
: >"$ALL"
if wanted "Debian packages"; then
    if packages >"$B/tests/log" 2>&1; then echo "ok - Debian packages"; else echo "not ok - Debian packages" && sed 's/^/# /' "$B/tests/log"; fi |
        tee -a "$ALL"
fi
for source in c_tests/test_*.c c_tests/fault_sweep.c c_tests/fuzz.c c_tests/soak.c; do
    name=$(basename "$source" .c) library=unimem arguments=
    case $name in fault_sweep) library=unimem_faults ;; fuzz) arguments=4 ;; soak) arguments="2 1" ;; esac
    wanted "$name" || continue
    # shellcheck disable=SC2086  # lists of words
    if $TEST_CC -std=c11 -Wall -Wextra -Werror -pedantic -g -O2 -pthread -Iinclude -Ic_tests "$source" \
        -o "$R/programs/$name" -L"$B" -l$library -lm -ldl >"$B/tests/log" 2>&1; then
        echo "$name $arguments" >>"$S/list"
    else
        echo "$source DOES NOT COMPILE"
        cat "$B/tests/log"
        echo "not ok - $name: does not compile" >>"$ALL"
    fi
done
# Without what is the same on every processor: the comparison of the headers, and the models.
if wanted "cargo test"; then
    CC=$TEST_CC CARGO_BUILD_TARGET=$TARGET CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$TEST_CC \
        $CARGO checked --no-run >"$B/tests/log" 2>&1 || { cat "$B/tests/log"; echo "not ok - cargo test: does not compile" >>"$ALL"; }
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$B/tests/log" | while read -r program; do
        name=cargo-$(basename "$program" | sed 's/-[0-9a-f]*$//')
        case $program in */header-*) continue ;; esac
        [ ! -e "$R/programs/$name" ] || name=$name-command
        cp "$program" "$R/programs/$name"
        echo "$name --format pretty --skip ::model::" >>"$S/list"
    done
fi
cp -r tests "$R$PWD/"
libraries=$($TEST_CC -print-sysroot)/usr/aarch64-linux-gnu/lib
[ -d "$libraries" ] || libraries=/usr/aarch64-linux-gnu/lib
for library in ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 libgcc_s.so.1; do
    cp -L "$libraries/$library" "$R/lib/" || exit 1
done
cp -L "$B/libunimem.so" "$R/lib/libunimem.so.1"
cp -L "$B/libunimem_faults.so" "$R/lib/"
aarch64-linux-gnu-strip -g "$R/lib"/libunimem* "$R/programs"/* 2>/dev/null
cp "$S/busybox" "$R/bin/busybox"
for tool in sh cat date echo ln mkdir mount poweroff rm sed tail timeout uname; do ln -s busybox "$R/bin/$tool"; done
cp "$S/list" "$R/list"
cp c_tests/emulated_init.sh "$R/init"
chmod +x "$R/init"
(cd "$R" && find . | cpio -o -H newc --quiet) >"$S/root.cpio" || exit 1

# On ramfs, because a program's code would count as its memory on the usual file system in memory (c_tests/process.h).
timeout -k 10 10800 qemu-system-aarch64 -M virt -cpu max,pauth-impdef=on -accel tcg,thread=multi -smp 2 -m 6G -nic none \
    -nographic -no-reboot -kernel "$S/kernel" -initrd "$S/root.cpio" -append "console=ttyAMA0 panic=-1 quiet rootfstype=ramfs" \
    </dev/null >"$S/console.raw" 2>"$S/errors"
tr -d '\r\000' <"$S/console.raw" >"$S/console"
grep -m 1 aarch64 "$S/console" || cat "$S/errors"

while read -r name _; do
    sed -n "/^=== begin $name\$/,/^=== end $name /p" "$S/console" >"$B/tests/$name.console"
    # shellcheck disable=SC2046  # two numbers
    set -- $(sed -n "s/^=== end $name //p" "$B/tests/$name.console")
    case $name in
    cargo-*) awk -f c_tests/cargo.awk "$B/tests/$name.console" ;;
    *) cat "$B/tests/$name.console" ;;
    esac | grep -v '^===' | awk -v name="$name" -v status="${1:-137}" -f c_tests/tap.awk >"$B/tests/lines"
    cat "$B/tests/lines" >>"$ALL"
    if grep -q '^not ok' "$B/tests/lines"; then
        printf '%-36s FAILED\n' "$name"
        case $name in
        cargo-*) grep -v '\.\.\. ok$' "$B/tests/$name.console" ;;
        *) grep -v '^ok' "$B/tests/lines" ;;
        esac | tail -n 60
    else
        printf '%-36s %5d ok  %3d s\n' "$name" "$(grep '^ok' "$B/tests/lines" | grep -vc '# SKIP')" "${2:-0}"
    fi
done <"$S/list"
[ -s "$ALL" ] || echo "not ok - no test has '$ONLY' in its name" >>"$ALL"
grep '# SKIP' "$ALL" | sed 's/^ok - /skipped: /; s/ # SKIP/:/'
failed=$(grep -c '^not ok' "$ALL")
[ "$failed" = 0 ] || grep '^not ok' "$ALL"
echo "$(grep '^ok' "$ALL" | grep -vc '# SKIP') passed, $failed failed"
[ "$failed" = 0 ]
