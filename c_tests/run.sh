#!/bin/sh
# Every test there is; the last line is "N passed, N failed".
#   run.sh BUILD        BUILD: the directory of the libraries
# From the environment: CARGO CC CXX MAKE SYSTEM_LIBS, ONLY (run what contains this text), VALGRIND=0 (leave it out).
set -u
B=$1
: "${CARGO:=cargo}" "${CC:=cc}" "${CXX:=c++}" "${MAKE:=make}" "${SYSTEM_LIBS:=}" "${ONLY:=}"
export CC CXX MAKE SYSTEM_LIBS
ALL=$B/test.tap
WARNINGS="-Wall -Wextra -Werror -pedantic"
mkdir -p "$B/tests" && : >"$ALL" || exit 1

# wanted NAME: whether ONLY names it.
wanted() {
    case $1 in *"$ONLY"*) ;; *) return 1 ;; esac
}

# collect NAME SECONDS COMMAND...: runs a program that speaks TAP, and shows a line, or all that went wrong.
collect() {
    name=$1 seconds=$2
    shift 2
    wanted "$name" || return 0
    began=$(date +%s)
    timeout -k 10 "$seconds" "$@" >"$B/tests/log" 2>&1 </dev/null
    awk -v name="$name" -v status=$? -f c_tests/tap.awk "$B/tests/log" >"$B/tests/lines"
    cat "$B/tests/lines" >>"$ALL"
    passed=$(grep -c '^ok' "$B/tests/lines")
    if grep -q '^not ok' "$B/tests/lines"; then
        printf '%-36s FAILED\n' "$name"
        grep -v '^ok' "$B/tests/lines" | tail -n 60
    else
        printf '%-36s %5d ok  %3d s\n' "$name" "$passed" "$(($(date +%s) - began))"
    fi
}

cargo_test() {
    $CARGO test --quiet --locked --no-fail-fast -- --format pretty >"$B/tests/cargo.log" 2>&1
    status=$?
    awk '/^test .* \.\.\. ok/ { n++; print "ok - " $2 }
         /^test .* \.\.\. ignored/ { n++; print "ok - " $2 " # SKIP ignored" }
         /^test .* \.\.\. FAILED/ { n++; print "not ok - " $2 }
         END { print "1.." n + 0 }' "$B/tests/cargo.log"
    [ $status = 0 ] || sed 's/^/# /' "$B/tests/cargo.log"
    return $status
}

# The functions above are wanted in a program of their own, under timeout.
case ${2:-} in
cargo) cargo_test; exit ;;
esac

collect "cargo test" 1500 sh "$0" "$B" cargo
collect "headers" 120 sh c_tests/headers.sh
collect "exported names" 60 sh c_tests/names.sh "$B"

for source in c_tests/test_*.c; do
    name=$(basename "$source" .c)
    wanted "$name" || continue
    # shellcheck disable=SC2086  # lists of words
    if $CC -std=c11 $WARNINGS -O2 -g -pthread -Iinclude -Ic_tests "$source" -o "$B/tests/$name" \
        -L"$B" -lunimem -Wl,-rpath,"$PWD/$B" -lm -ldl >"$B/tests/log" 2>&1; then
        collect "$name" 300 "$B/tests/$name"
    else
        printf '%-36s DOES NOT COMPILE\n' "$name"
        cat "$B/tests/log"
        echo "not ok - $name: does not compile" >>"$ALL"
    fi
done

# The small ones again under valgrind: nothing lost, nothing read before it was written.
while read -r name; do
    case $name in '' | '#'*) continue ;; esac
    if [ "${VALGRIND:-1}" = 0 ]; then
        collect "$name (valgrind)" 10 echo "1..0 # SKIP VALGRIND=0"
    elif ! command -v valgrind >/dev/null; then
        collect "$name (valgrind)" 10 echo "1..0 # SKIP there is no valgrind"
    else
        collect "$name (valgrind)" 600 valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite \
            --error-exitcode=99 "$B/tests/$name"
    fi
done <c_tests/valgrind.list

collect "swap" 600 sh c_tests/swap.sh "$B"
collect "installed tree" 300 sh c_tests/installed.sh "$B"

grep '# SKIP' "$ALL" | sed 's/^ok - /skipped: /; s/ # SKIP/:/'
failed=$(grep -c '^not ok' "$ALL")
[ "$failed" = 0 ] || grep '^not ok' "$ALL"
echo "$(grep '^ok' "$ALL" | grep -vc '# SKIP') passed, $failed failed"
[ "$failed" = 0 ]
