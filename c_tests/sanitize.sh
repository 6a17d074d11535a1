#!/bin/sh
# The C tests and the library, both built with a sanitizer: the Rust side too, with RUSTC_BOOTSTRAP=1, which lets a stable
# compiler take -Zsanitizer. Under the thread sanitizer the standard library is built anew (it needs rust-src), else all
# that is synchronised there would be reported. What each run says is in BUILD/sanitized. Some minutes.
#   sanitize.sh BUILD [thread | address]
set -u
B=$1/sanitized TARGET=$(rustc -vV | sed -n 's/^host: //p')
: "${CARGO:=cargo}" "${TEST_CC:=cc}" "${SYSTEM_LIBS:=}"
SYSROOT=$(rustc --print sysroot)
n=0 failures=0
mkdir -p "$B" || exit 1

# Tests with threads, and with a divisor of their work; those left out assert figures that sanitizers change, or end
# programs by signals on purpose (test_exhaustion), or want signals at once (soak). test_tiers_signals says itself what of
# it the thread sanitizer makes impossible.
thread_tests="test_pool_threads:20 test_stress:20 test_instances:10 test_tracking:10 test_singleton:20 test_faults:20
test_systems_fork:5 test_tiers:20 test_tiers_chunks:1 test_tiers_fork:5 test_tiers_fork_failures:1 test_tiers_pieces:5
test_tiers_signals:1 test_tiers_surfaces:1 test_tree_network:2 test_tree_failures:1 test_tree_threads:1 test_advanced_pools:20"
address_tests="test_interface:20 test_pool:20 test_pool_threads:20 test_stress:20 test_instances:10 test_tracking:10
test_advanced:50 test_advanced_blocks:1 test_advanced_pools:20 test_singleton:20 test_faults:20 test_tensors:5
test_tree_network:2 test_tree_failures:1 fuzz:1"

# result WHETHER NAME LOG
result() {
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
    else
        failures=$((failures + 1))
        echo "not ok $n - $2"
        sed 's/^/# /' "$3" | head -n 60
    fi
}
skip() {
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}

# sanitize SANITIZER RUNTIME C-FLAGS TESTS: builds and runs all.
sanitize() {
    kind=$1 runtime=$SYSROOT/lib/rustlib/$TARGET/lib/librustc-stable_rt.$2.a flags=$3 tests=$4 std=
    if [ ! -f "$runtime" ]; then
        skip "$kind sanitizer" "this Rust compiler has no runtime for it"
        return
    fi
    if [ "$kind" = thread ]; then
        std=-Zbuild-std
        if [ ! -d "$SYSROOT/lib/rustlib/src/rust/library" ] && ! rustup component add rust-src >/dev/null 2>&1; then
            skip "thread sanitizer" "there is no rust-src, and rustup does not give it"
            return
        fi
    fi
    # shellcheck disable=SC2086  # one word or none
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$kind" CARGO_TARGET_DIR=target/sanitized/$kind $CARGO build --quiet $std \
        --target "$TARGET" --release --locked --lib >"$B/$kind.build" 2>&1
    status=$?
    result $status "$kind sanitizer: the library builds" "$B/$kind.build"
    [ $status = 0 ] || return
    for test in $tests; do
        name=${test%:*} program=$B/${test%:*}.$kind
        # shellcheck disable=SC2086  # lists of words
        $TEST_CC -std=c11 -O1 -g -pthread $flags -Iinclude -Ic_tests -c "c_tests/$name.c" -o "$program.o" >"$program.log" 2>&1 &&
            $TEST_CC -pthread -rdynamic "$program.o" -o "$program" "target/sanitized/$kind/$TARGET/release/libunimem.a" \
                -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive $SYSTEM_LIBS -lrt >>"$program.log" 2>&1 &&
            UNIMEM_TEST_DIVISOR=${test#*:} \
                TSAN_OPTIONS="suppressions=c_tests/thread_sanitizer.supp die_after_fork=0 history_size=4" \
                ASAN_OPTIONS=detect_leaks=0:allow_user_segv_handler=1 \
                timeout -k 10 300 "$program" >>"$program.log" 2>&1
        result $? "$kind sanitizer: $name" "$program.log"
    done
}

case ${2:-} in '' | address) sanitize address asan "-fsanitize=address,undefined -fsanitize-undefined-trap-on-error" "$address_tests" ;; esac
case ${2:-} in '' | thread) sanitize thread tsan -fsanitize=thread "$thread_tests" ;; esac
echo "1..$n"
[ $failures = 0 ]
