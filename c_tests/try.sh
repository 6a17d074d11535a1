#!/bin/sh
# What the test scripts share: tests in TAP, and a scratch directory $D that goes when they end. Sourced.
D=$(mktemp -d) || exit 1
trap 'rm -rf "$D"' EXIT
n=0 failures=0

# try NAME COMMAND...: one test; what it said is in $D/log.
try() {
    n=$((n + 1)) name=$1
    shift
    if "$@" >"$D/log" 2>&1; then
        echo "ok $n - $name"
    else
        failures=$((failures + 1))
        echo "not ok $n - $name"
        sed 's/^/# /' "$D/log"
        return 1
    fi
}
# skip NAME WHY: a test that is not run.
skip() {
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}
# gives CODE COMMAND...: whether a command ends with that code; its output is in $D/out and $D/err.
gives() {
    code=$1
    shift
    "$@" >"$D/out" 2>"$D/err" </dev/null
    got=$?
    head -c 2000 "$D/out" "$D/err"
    [ $got = "$code" ] || { echo "exit code $got, expected $code" && false; }
}
# says FILE TEXT: whether the file in $D has the text.
says() { grep -qF -- "$2" "$D/$1"; }
# finish: the last line; whether all tests held.
finish() {
    echo "1..$n"
    [ $failures = 0 ]
}
