#!/bin/sh
# Says which programs are missing for a target of the Makefile and installs them (Debian, Ubuntu).
#   deps.sh rust   only whether there is a Rust that is new enough
#   deps.sh demo   what building and running needs
#   deps.sh test   and what widens the tests; without those they say SKIP
#   deps.sh bench  and what the benchmarks compare with
#   deps.sh aarch64  a compiler for that processor, and what emulates it
# Does nothing, quickly and without network, when nothing is missing.
set -eu

missing=
wanted=
have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || missing="$missing $2"; }
want() { have "$1" || wanted="$wanted $2"; }

oldest=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
found=$(${CARGO:-cargo} --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
if [ "$(printf '%s\n' "$oldest" "${found:-0}" | sort -V | head -n 1)" != "$oldest" ]; then
    echo "deps: this needs Rust $oldest or newer, and cargo is ${found:-missing}: install it from https://rustup.rs" >&2
    exit 1
fi
[ "${1:-test}" != rust ] || exit 0
need "${CC:-cc}" gcc
need ld binutils
need objcopy binutils
want_library() {
    [ -n "$(find /usr/lib /lib /usr/local/lib -name "$1" 2>/dev/null | head -n 1)" ] || wanted="$wanted $2"
}
# The NUMA topology comes through it; without it the library asks sysfs.
want_library libhwloc.so.15 libhwloc15
if [ "${1:-test}" = test ]; then
    want "${CXX:-c++}" g++
    want pkg-config pkg-config
    want cmake cmake
    want valgrind valgrind
    want abidiff abigail-tools
    want dpkg-shlibdeps dpkg-dev
fi
if [ "${1:-test}" = bench ]; then
    want_library libmimalloc.so.2 libmimalloc2.0
    want_library libjemalloc.so.2 libjemalloc2
    want_library libtcmalloc_minimal.so.4 libtcmalloc-minimal4
    # Debian's NumPy multiplies with whatever BLAS there is; the reference one would be no rival.
    want_library libopenblas.so.0 libopenblas0-pthread
    want python3 python3
    "${PYTHON:-python3}" -c 'import numpy' 2>/dev/null || /usr/bin/python3 -c 'import numpy' 2>/dev/null ||
        wanted="$wanted python3-numpy"
fi
if [ "${1:-test}" = aarch64 ]; then
    want aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    want qemu-system-aarch64 qemu-system-arm
    want cpio cpio
    if have rustup && ! rustup target list --installed | grep -qx aarch64-unknown-linux-gnu; then
        rustup target add aarch64-unknown-linux-gnu >/dev/null 2>&1 ||
            echo "deps: rustup does not give aarch64-unknown-linux-gnu; what needs it is skipped"
    fi
fi
if [ -z "$missing$wanted" ]; then
    exit 0
fi

as_root=
if [ "$(id -u)" != 0 ]; then
    as_root="sudo -n"
fi
install() {
    have apt-get || return 1
    echo "deps: installing$*"
    # shellcheck disable=SC2086,SC2048  # both are lists of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $* >/dev/null 2>&1 && return
    # shellcheck disable=SC2086,SC2048
    $as_root apt-get update -qq >/dev/null 2>&1 &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $* >/dev/null
}
if [ -n "$wanted" ] && ! install "$wanted"; then
    echo "deps: could not install$wanted; what needs them is skipped"
fi
if [ -n "$missing" ] && ! install "$missing"; then
    echo "deps: could not install$missing, which the build needs" >&2
    exit 1
fi
