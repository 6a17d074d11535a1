#!/bin/sh
# Every test there is; the last line is "N passed, N failed".
#   run.sh BUILD        BUILD: the directory of the libraries
# From the environment: CARGO TEST_CC TEST_CXX MAKE SYSTEM_LIBS, ONLY (run what contains this text), VALGRIND=0 (leave
# it out), EXCEPT (names to leave out, with | between them), SOAK (minutes), AGAIN=1 (C tests in all modes, too). Not CC:
# Cargo would build everything anew for a compiler by another name.
set -u
B=$1
: "${CARGO:=cargo}" "${TEST_CC:=cc}" "${TEST_CXX:=c++}" "${MAKE:=make}" "${SYSTEM_LIBS:=}" "${ONLY:=}" "${EXCEPT:=}" "${SOAK:=}" "${AGAIN:=}"
export TEST_CC TEST_CXX MAKE SYSTEM_LIBS
ALL=$B/test.tap
# Scratch files of the line that is run.
T=$B/tests
WARNINGS="-Wall -Wextra -Werror -pedantic"
mkdir -p "$B/tests" && : >"$ALL" || exit 1

# wanted NAME: whether ONLY names it, and EXCEPT does not.
wanted() {
    case $1 in *"$ONLY"*) ;; *) return 1 ;; esac
    case "|$EXCEPT|" in *"|$1|"*) return 1 ;; esac
}

# collect NAME SECONDS COMMAND...: runs a program that speaks TAP, and shows a line, or all that went wrong.
collect() {
    title=$1 seconds=$2
    shift 2
    wanted "$title" || return 0
    began=$(date +%s)
    timeout -k 10 "$seconds" "$@" >"$T/log" 2>"$T/errors" </dev/null
    status=$?
    echo >>"$T/log"
    sed 's/^/# /' "$T/errors" >>"$T/log"
    tr -d "\000" <"$T/log" | awk -v name="$title" -v status=$status -f c_tests/tap.awk >"$T/lines"
    cat "$T/lines" >>"$ALL"
    passed=$(grep '^ok' "$T/lines" | grep -vc '# SKIP')
    if grep -q '^not ok' "$T/lines"; then
        printf '%-36s FAILED\n' "$title"
        grep -v '^ok' "$T/lines" | tail -n 60
    elif [ "$passed" = 0 ]; then
        printf '%-36s skipped\n' "$title"
    else
        printf '%-36s %5d ok  %3d s\n' "$title" "$passed" "$(($(date +%s) - began))"
    fi
}

# beside LANE COMMAND...: runs lines in the background, with scratch files of their own; `joined` shows and counts them.
beside() {
    lane=$1
    mkdir -p "$B/tests/$lane" || exit 1
    in_lane "$@" >"$B/tests/$lane/shown" 2>&1 &
    lane_process=$!
}
in_lane() {
    T=$B/tests/$1 ALL=$B/tests/$1/test.tap
    shift
    : >"$ALL"
    "$@"
    exit 0
}
# A lane ignores ^C, as all that runs in the background: it and what it runs end with this program.
lane_process=
end_lane() {
    [ -n "$lane_process" ] || return 0
    pkill -P "$lane_process" 2>/dev/null
    kill "$lane_process" 2>/dev/null
}
trap end_lane EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
joined() {
    wait "$lane_process" || echo "not ok - $lane: was ended" | tee -a "$ALL"
    cat "$B/tests/$lane/shown"
    cat "$B/tests/$lane/test.tap" >>"$ALL"
    lane_process=
}

cargo_test() {
    $CARGO checked --quiet --no-fail-fast -- --format pretty >"$B/tests/cargo.log" 2>&1
    status=$?
    awk -f c_tests/cargo.awk "$B/tests/cargo.log"
    [ $status = 0 ] || sed 's/^/# /' "$B/tests/cargo.log"
    return $status
}

# The functions above are wanted in a program of their own, under timeout.
case ${2:-} in
cargo) cargo_test; exit ;;
esac

# With the functions that make system calls fail (see Makefile). Now, while Cargo has nothing else to do.
if wanted "fault sweep"; then
    $MAKE --no-print-directory "$B/libunimem_faults.so" >/dev/null || exit 1
fi
# Building the Rust tests takes longest: what does not need the processors to itself is run beside it.
beside cargo collect "cargo test" 1500 sh "$0" "$B" cargo
collect "headers" 120 sh c_tests/headers.sh
collect "tools" 60 env -u MAKEFLAGS sh c_tests/tools.sh
collect "exported names" 60 sh c_tests/names.sh "$B"
collect "abi" 60 sh c_tests/abi.sh "$B"

# compile SOURCE PROGRAM FLAGS LIBRARY: builds a test, in C or C++, as a user would; false, and a failure noted, if it does not.
compile() {
    case $1 in
    *.cpp) compiler="$TEST_CXX -std=c++17" ;;
    *) compiler="$TEST_CC -std=c11" ;;
    esac
    # shellcheck disable=SC2086  # lists of words
    if $compiler $WARNINGS -g -pthread $3 -Iinclude -Ic_tests "$1" -o "$2" $4 -lm -ldl >"$T/log" 2>&1; then
        return
    fi
    printf '%-36s DOES NOT COMPILE\n' "$1"
    cat "$T/log"
    echo "not ok - $1: does not compile" >>"$ALL"
    return 1
}

# c_test NAME: builds and runs one.
c_test() {
    wanted "$1" || return 0
    compile "c_tests/$1.c" "$B/tests/$1" -O2 "-L$B -lunimem -Wl,-rpath,$PWD/$B" && collect "$1" 300 "$B/tests/$1"
}
# Those that look for races between threads or with signals, which want the processors to themselves.
ALONE="test_cancellation test_pool_threads test_stress test_systems_fork test_tiers test_tiers_fork test_tiers_signals"
for source in c_tests/test_*.c; do
    name=$(basename "$source" .c)
    case " $ALONE " in *" $name "*) ;; *) c_test "$name" ;; esac
done

if wanted "fault sweep" &&
    compile c_tests/fault_sweep.c "$B/tests/fault_sweep" -O2 "-L$B -lunimem_faults -Wl,-rpath,$PWD/$B"; then
    collect "fault sweep" 300 env UNIMEM_TEST_DIVISOR=6 "$B/tests/fault_sweep"
fi

collect "copies" 300 sh c_tests/copies.sh "$B"

# skipped NAME WHY
skipped() {
    collect "$1" 10 echo "1..0 # SKIP $2"
}

# The smaller ones again under valgrind and with sanitizers: nothing is lost, or read or written where it should not.
sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
# shellcheck disable=SC2086  # a list of words
echo "int main(void) { return 0; }" | $TEST_CC $sanitizers -x c - -o "$B/tests/sanitized" 2>/dev/null || sanitizers=
while read -r name divisor; do
    case $name in '' | '#'*) continue ;; esac
    if [ "${VALGRIND:-1}" = 0 ]; then
        skipped "$name (valgrind)" "VALGRIND=0"
    elif ! command -v valgrind >/dev/null; then
        skipped "$name (valgrind)" "there is no valgrind"
    else
        collect "$name (valgrind)" 600 env UNIMEM_TEST_DIVISOR="$divisor" valgrind --quiet --leak-check=full \
            --show-leak-kinds=definite --errors-for-leak-kinds=definite --error-exitcode=99 "$B/tests/$name"
    fi
    wanted "$name (sanitizers)" || continue
    if [ -z "$sanitizers" ]; then
        skipped "$name (sanitizers)" "$TEST_CC has none"
    elif compile "c_tests/$name.c" "$B/tests/$name.sanitized" "-O1 $sanitizers" "$B/libunimem.a $SYSTEM_LIBS"; then
        collect "$name (sanitizers)" 300 env UNIMEM_TEST_DIVISOR="$divisor" "$B/tests/$name.sanitized"
    fi
done <c_tests/checked.list

if ! command -v "$TEST_CXX" >/dev/null; then
    skipped "test_plus_plus" "there is no $TEST_CXX"
elif wanted "test_plus_plus"; then
    compile c_tests/test_plus_plus.cpp "$B/tests/test_plus_plus" -O2 "-L$B -lunimem -Wl,-rpath,$PWD/$B" &&
        collect "test_plus_plus" 120 "$B/tests/test_plus_plus"
    [ -z "$sanitizers" ] || { compile c_tests/test_plus_plus.cpp "$B/tests/test_plus_plus.sanitized" \
        "-O1 $sanitizers" "$B/libunimem.a $SYSTEM_LIBS" &&
        collect "test_plus_plus (sanitizers)" 120 "$B/tests/test_plus_plus.sanitized"; }
fi

collect "examples" 120 sh c_tests/examples.sh "$B"
collect "the unimem command" 120 sh c_tests/command.sh "$B"
collect "recordings" 120 sh c_tests/recorded.sh "$B"
collect "preloaded programs" 120 sh c_tests/preloaded.sh "$B"
collect "swap" 600 sh c_tests/swap.sh "$B"
# Last, because they call make, which asks Cargo, which waits until the Rust tests are built.
collect "installed tree" 600 sh c_tests/installed.sh "$B"
collect "documents" 600 sh c_tests/documents.sh "$B"

joined
for name in $ALONE; do
    c_test "$name"
done
if wanted fuzz && compile c_tests/fuzz.c "$B/tests/fuzz" -O2 "-L$B -lunimem -Wl,-rpath,$PWD/$B"; then
    collect "fuzz" 120 "$B/tests/fuzz" 4
fi

if wanted soak && compile c_tests/soak.c "$B/tests/soak" -O2 "-L$B -lunimem -Wl,-rpath,$PWD/$B"; then
    # shellcheck disable=SC2086  # minutes and a seed, or neither
    collect "soak" $((${SOAK:-0} * 60 + 200)) "$B/tests/soak" $SOAK ${SOAK:+$(date +%s)}
fi

# in_mode NAME MODE SETTING...: a test once more, in an environment that users may have.
in_mode() {
    source_name=$1 mode=$2
    shift 2
    wanted "$source_name ($mode)" || return 0
    # Else it was built above.
    wanted "$source_name" ||
        compile "c_tests/$source_name.c" "$B/tests/$source_name" -O2 "-L$B -lunimem -Wl,-rpath,$PWD/$B" || return 0
    collect "$source_name ($mode)" 600 env "$@" "$B/tests/$source_name"
    rm -f "$T"/*.trace "$T/report"
}
recorded="UNIMEM_TRACE=$PWD/$T/%p.trace UNIMEM_TRACE_INTERVAL=4096"
if [ -n "$AGAIN" ]; then
    for source in c_tests/test_*.c c_tests/soak.c; do
        name=$(basename "$source" .c)
        # shellcheck disable=SC2086  # lists of settings
        {
            in_mode "$name" "debug mode" UNIMEM_DEBUG=guard,quarantine,trace UNIMEM_DEBUG_REPORT="$PWD/$T/report"
            in_mode "$name" "recorded" $recorded
            in_mode "$name" "debug mode, recorded" UNIMEM_DEBUG=1 $recorded
        }
        # Others do not use tiered memory, or go through all mechanisms themselves.
        case $name in test_integration | test_stress | test_budget | test_cancellation | test_exhaustion | test_instances | test_tree_*)
            for mechanism in userfaultfd userfaultfd-copy signal none; do
                in_mode "$name" "debug mode, $mechanism" UNIMEM_DEBUG=1 UNIMEM_FAULTS=$mechanism
            done ;;
        esac
    done
fi

# What a checked build found (src/os/findings.rs) in any process, also where nobody noticed how that ended.
if [ -s "${UNIMEM_TEST_FINDINGS:-/dev/null}" ]; then
    head -n 60 "$UNIMEM_TEST_FINDINGS"
    echo "not ok - checks of the library failed: $UNIMEM_TEST_FINDINGS" >>"$ALL"
fi
if [ ! -s "$ALL" ]; then
    echo "not ok - no line of the run has '$ONLY' in its name" >>"$ALL"
fi
grep '# SKIP' "$ALL" | sed 's/^ok - /skipped: /; s/ # SKIP/:/'
failed=$(grep -c '^not ok' "$ALL")
[ "$failed" = 0 ] || grep '^not ok' "$ALL"
echo "$(grep '^ok' "$ALL" | grep -vc '# SKIP') passed, $failed failed"
[ "$failed" = 0 ]
