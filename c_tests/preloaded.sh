#!/bin/sh
# Whole programs on the heap: a test of malloc's promises, then a compiler, an interpreter and a sort, whose output must
# be that of a plain run.
#   preloaded.sh BUILD
set -u
B=$1
: "${TEST_CC:=cc}"
library=$PWD/$B/libunimem-malloc.so
place=$(mktemp -d) || exit 1
trap 'rm -rf "$place"' EXIT
number=0
result() { # STATUS TEXT
    number=$((number + 1))
    if [ "$1" = 0 ]; then echo "ok $number - $2"; else echo "not ok $number - $2"; fi
}
skip() {
    number=$((number + 1))
    echo "ok $number - $1 # SKIP $2"
}
# debugged NAME PROGRAM...: the same in debug mode, with a report.
debugged() {
    UNIMEM_DEBUG=guard,quarantine,trace UNIMEM_DEBUG_REPORT="$place/%p.json" same "$@"
}
# same NAME PROGRAM...: runs it plainly and on the heap, with the same input, and compares what it writes.
same() {
    name=$1
    shift
    "$@" >"$place/plain" 2>&1 </dev/null
    plain=$?
    timeout 100 env LD_PRELOAD="$library" "$@" >"$place/ours" 2>&1 </dev/null
    ours=$?
    [ $plain = 0 ] && [ $ours = 0 ] && cmp "$place/plain" "$place/ours" >&2
    result $? "$name"
}

# shellcheck disable=SC2086
$TEST_CC -std=c11 -Wall -Wextra -Werror -O1 -fno-builtin -Wno-free-nonheap-object -pthread -Ic_tests -Iinclude c_tests/preloaded.c \
    -o "$place/preloaded" -ldl >&2
result $? "the program of malloc's promises compiles"
"$place/preloaded" >"$place/plain" 2>&1
result $? "the C library keeps malloc's promises, as this test understands them"
LD_PRELOAD=$library timeout 60 "$place/preloaded" ours >"$place/ours" 2>&1
status=$?
sed 's/^/# /' "$place/ours"
result $status "and so does libunimem, whose blocks they are"
grep -q "^ok.*libunimem's" "$place/ours"
result $? "the program was on libunimem's heap"
UNIMEM_MAX_SIZE=64M LD_PRELOAD=$library timeout 60 "$place/preloaded" capped >"$place/ours" 2>&1
result $? "UNIMEM_MAX_SIZE caps the heap, and only that"
UNIMEM_MAX_SIZE=much UNIMEM_LOG=warning LD_PRELOAD=$library timeout 20 "$place/preloaded" none 2>"$place/ours" >/dev/null &&
    grep -q "UNIMEM_MAX_SIZE=much is not understood" "$place/ours"
result $? "a cap that is none is told of"
LD_PRELOAD=$library timeout 60 "$place/preloaded" leaks >"$place/ours" 2>&1
result $? "leaks of an instance are told where memory is short"

# The C library allocates for the 33rd function under the lock of its list of them. Before that this program allocates nothing.
printf '#include <stdlib.h>\nstatic void nothing(void) {}\nint main(void) { for (int i = 0; i < 40; i++) if (%s) return 1; return 0; }\n' \
    'atexit(nothing)' >"$place/first.c" && $TEST_CC "$place/first.c" -o "$place/first"
UNIMEM_TRACE=$place/first.trace LD_PRELOAD=$library timeout 20 "$place/first"
result $? "a program whose first allocation is atexit's can be recorded"
UNIMEM_DEBUG=1 UNIMEM_DEBUG_REPORT=$place/first.report LD_PRELOAD=$library timeout 20 "$place/first" && [ -s "$place/first.report" ]
result $? "and run in debug mode"

same "a compiler" "$TEST_CC" -O2 -S -Iinclude -Ic_tests c_tests/test_interface.c -o -
debugged "a compiler in debug mode" "$TEST_CC" -O1 -S c_tests/swap_main.c -Iinclude -o -
grep -q '"complete": true' "$place"/*.json && ! grep -q '"kind"' "$place"/*.json
result $? "whose programs all report their ends, and no problems"
if command -v python3 >/dev/null; then
    cat >"$place/program.py" <<'P'
import json, re, threading
def work(n, out):
    d = {i * n: str(i) * (i % 50) for i in range(20000)}
    text = json.dumps(d)
    out[n] = (len(re.findall(r"1+", text)), hash(tuple(sorted(json.loads(text).items())[:0])), sum(map(len, d.values())))
out = {}
threads = [threading.Thread(target=work, args=(n, out)) for n in range(1, 9)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sorted((n, o[0], o[2]) for n, o in out.items()), sorted(str(i) for i in range(100000))[-1])
P
    same "an interpreter with threads" python3 "$place/program.py"
    # The interpreter itself: python3 may be a script that starts it by way of many programs.
    interpreter=$(python3 -c 'import sys; print(sys.executable)')
    cat >"$place/small.py" <<'P'
import json, threading
out = {}
def work(n):
    out[n] = len(json.dumps({i: str(i) * (i % 9) for i in range(300 * n)}))
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sorted(out.items()))
P
    rm -f "$place"/*.json
    debugged "an interpreter in debug mode" "$interpreter" -S "$place/small.py"
    grep -q '"complete": true' "$place"/*.json && ! grep -q '"kind"' "$place"/*.json
    result $? "which reports its end, and no problems"
else
    skip "an interpreter with threads" "there is no python3"
fi
if command -v sort >/dev/null; then
    awk 'BEGIN { for (i = 0; i < 300000; i++) print (i * 7919) % 1000003, i }' >"$place/lines"
    same "a sort on several threads" env LC_ALL=C sort --parallel=4 -S 20M "$place/lines"
else
    skip "a sort on several threads" "there is no sort"
fi
echo "1..$number"
