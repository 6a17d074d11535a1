#!/bin/sh
# The unimem command: what it prints, its exit codes, and programs under it.  command.sh BUILD
set -u
B=$1
: "${TEST_CC:=cc}"
# shellcheck source=c_tests/try.sh
. c_tests/try.sh
unset NO_COLOR LD_PRELOAD

silent() { [ ! -s "$D/$1" ]; }
parses() { python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$D/$1"; }

unimem=$B/unimem
helps() { gives 0 "$unimem" --help && says out 'Usage: unimem COMMAND' && silent err; }
helps_each() {
    for command in $("$unimem" help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
        [ "$command" = help ] || { gives 0 "$unimem" "$command" --help && says out "Usage: unimem $command"; } || return 1
    done
}
version() { gives 0 "$unimem" --version && [ "$(cat "$D/out")" = "unimem $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" ]; }
refuses() {
    for line in "" dance "info extra" run "run --max-size 1Q true" "run --trace true" "report" check "check --exit-code 0 true"; do
        # shellcheck disable=SC2086  # a list of words
        gives 2 "$unimem" $line && silent out && says err "Try 'unimem --help'" || return 1
    done
}
tells() { gives 0 "$unimem" info && says out "huge pages" && says out "faults of tiered memory" && silent err; }
plain() { gives 0 "$unimem" info && ! grep -q "$(printf '\033')" "$D/out"; }
tells_json() { gives 0 "$unimem" info --json && parses out; }
figures() {
    gives 0 "$unimem" info --json && python3 - "$D/out" <<'PYTHON'
import json, os, sys
told = json.load(open(sys.argv[1]))
assert told["memory"]["page"] == os.sysconf("SC_PAGESIZE")
assert told["memory"]["total"] == int(open("/proc/meminfo").readline().split()[1]) * 1024
assert told["NUMA_nodes"]["count"] >= 1
PYTHON
}
forced() { gives 0 env UNIMEM_FAULTS=none "$unimem" info && grep -q '^  used  *none$' "$D/out"; }
# The command is told of other pages than there are, as the library is in test_page_size.c.
other_pages() {
    printf '%s\n' '#define _GNU_SOURCE' '#include <dlfcn.h>' '#include <unistd.h>' \
        'long sysconf(int name) { return name == _SC_PAGESIZE ? 65536 : ((long (*)(int))dlsym(RTLD_NEXT, "sysconf"))(name); }' |
        $TEST_CC -shared -fPIC -x c - -o "$D/pages.so" -ldl || return 1
    gives 0 env LD_PRELOAD="$D/pages.so" "$unimem" info && says out "needs pages of 4 KiB" && ! says out " works" &&
        gives 125 env LD_PRELOAD="$D/pages.so" "$unimem" run true && says err "pages are not of 4 KiB" &&
        gives 125 env LD_PRELOAD="$D/pages.so" "$unimem" check true && says err "pages are not of 4 KiB"
}
no_directory() { gives 0 env UNIMEM_SPILL_DIR="$D/not-there" "$unimem" info && says out "no unnamed file can be made there: No such file or directory (ENOENT)"; }
# The reader has closed its end before the command begins.
closed_pipe() {
    mkfifo "$D/gone" || return 1
    {
        read -r _ <"$D/gone"
        "$unimem" info 2>"$D/err"
        echo $? >"$D/code"
    } | {
        exec <&-
        echo gone >"$D/gone"
    }
    [ "$(cat "$D/code")" = 0 ] && silent err
}

# A stand-in for the library to preload, beside a copy of the command: the loading is tested here, the heap elsewhere.
mkdir "$D/bin" && cp "$unimem" "$D/bin/" || exit 1
echo 'int stand_in_is_loaded(void) { return 1; }' | $TEST_CC -shared -fPIC -x c - -o "$D/bin/libunimem-malloc.so" || exit 1
cat >"$D/user.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
int main(int count, char **arguments) {
    const char *size = getenv("UNIMEM_MAX_SIZE");
    printf("%s %s\n", dlsym(RTLD_DEFAULT, "stand_in_is_loaded") ? "loaded" : "not loaded", size ? size : "-");
    fflush(stdout);
    if (count > 1 && arguments[1][0] == 'k') raise(SIGKILL);
    return count > 1 ? atoi(arguments[1]) : 0;
}
C
$TEST_CC "$D/user.c" -o "$D/user" -ldl || exit 1
own=$D/bin/unimem
runs() { gives 0 "$own" run "$D/user" && says out "loaded -" && silent err; }
passes() { gives 0 "$own" run --max-size 64M -- "$D/user" && says out "loaded 64M"; }
codes() { gives 7 "$own" run "$D/user" 7 && gives 8 "$own" run --stats "$D/user" 8; }
signals() { gives 137 "$own" run --stats "$D/user" k; }
not_found() { gives 127 "$own" run "$D/nobody" && gives 127 "$own" run --stats "$D/nobody" && says err "$D/nobody"; }
cannot_run() { gives 126 "$own" run "$D/user.c" && gives 126 "$own" run --stats "$D/user.c"; }
stats() { gives 0 "$own" run --stats "$D/user" && says err "peak resident" && says out loaded; }
stats_json() { gives 0 "$own" run --json "$D/user" && parses err; }
no_trace() { gives 0 "$unimem" run --trace "$D/nowhere/file" ls && says err "nothing is recorded: No such file"; }
no_library() { mv "$D/bin/libunimem-malloc.so" "$D/bin/away" && gives 125 "$own" run true && says err "libunimem-malloc.so"; }
unlucky_place() {
    mkdir "$D/a b" && cp "$unimem" "$D/bin/libunimem-malloc.so" "$D/a b/" && gives 125 "$D/a b/unimem" run true &&
        says err "the dynamic loader splits such a path"
}

# What check finds, in small programs. What leaks is made in a function of its own, deeper than what is called later.
cat >"$D/wrong.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void *kept;
__attribute__((noinline)) char *makes_a_block(size_t size) {
    char *volatile block = malloc(size);
    if (block) memset(block, 1, size);
    return block;
}
__attribute__((noinline)) void leaks(void) {
    for (int i = 0; i < 3; i++) makes_a_block(1000);
}
/* Leaves pointers to them deep in the stack below main, where nothing is any more. */
__attribute__((noinline)) void leaks_deeply(void) {
    char *volatile deep[50000];
    for (int i = 0; i < 50000; i++) deep[i] = i % 100 ? 0 : makes_a_block(1000);
}
__attribute__((noinline)) void overruns(void) {
    char *volatile block = makes_a_block(24);
    if (!block) return;
    block[24] ^= 1;
    free(block);
    block = NULL;
}
__attribute__((noinline)) int acts(const char *wrong) {
    char *volatile block = makes_a_block(24);
    if (!block) return 1;
    if (!strcmp(wrong, "leak")) leaks();
    if (!strcmp(wrong, "leak deeply")) leaks_deeply();
    if (!strcmp(wrong, "deep overrun")) overruns();
    if (!strcmp(wrong, "overrun") || !strcmp(wrong, "crash")) block[24] ^= 1;
    if (!strcmp(wrong, "left")) block[24] ^= 1, kept = block;
    else free(block);
    if (!strcmp(wrong, "crash")) abort();
    if (!strcmp(wrong, "after free")) block[3] = 7;
    /* Found while earlier ones are written down, which frees blocks too. */
    for (int i = 0; i < 400 && !strcmp(wrong, "many after free"); i++) {
        volatile char *large = malloc(100000);
        free((void *)large);
        if (i < 2) large[50] = 7;
    }
    if (!strcmp(wrong, "double free")) free(block);
    if (!strcmp(wrong, "bad free")) free(block + 8);
    if (!strcmp(wrong, "underscore")) _exit(0);
    return !strcmp(wrong, "seven") ? 7 : 0;
}
int main(int count, char **arguments) {
    if (!kept) kept = makes_a_block(100);
    int code = acts(count > 1 ? arguments[1] : "");
    puts("the end");
    return code;
}
C
$TEST_CC -O0 -g -fno-builtin -w "$D/wrong.c" -o "$D/wrong" || exit 1
cat >"$D/closes.c" <<'C'
#include <unimem.h>
int main(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    return !memory || !memory->allocate(1000, 0) || unimem_close(memory);
}
C
$TEST_CC -O0 -g -Iinclude "$D/closes.c" -L"$B" -lunimem -Wl,-rpath,"$(realpath "$B")" -o "$D/closes" || exit 1
clean() { gives 0 "$unimem" check "$D/wrong" && says out "the end" && says err "unimem check: nothing found, 1 process"; }
keeps_code() { gives 7 "$unimem" check "$D/wrong" seven && says err "nothing found"; }
deep_leak() { gives 99 "$unimem" check "$D/wrong" "leak deeply" && says err "500 blocks leaked" && says err "leaks_deeply at"; }
leak() { gives 99 "$unimem" check "$D/wrong" leak && says err "3 blocks leaked (2.9 KiB)" && says err "0 problems" && says err "leaks at"; }
# A block that is damaged stays when it is freed, and nothing points to it any more.
damaged_is_no_leak() { gives 99 "$unimem" check "$D/wrong" "deep overrun" && says err "unimem check: 1 problem, 1 process"; }
closes() { gives 99 "$unimem" check "$D/closes" && says err "leak at the end of a pool, system or instance: 1 block, 1000 bytes" && says err "main at" && says err "0 problems, 1 block leaked"; }
overrun() { gives 99 "$unimem" check "$D/wrong" overrun && says err "overrun: byte 24 of a block of 24 bytes" && says err "makes_a_block at"; }
left() { gives 99 "$unimem" check "$D/wrong" left && says err "overrun: byte 24 of a block of 24 bytes"; }
after_free() { gives 99 "$unimem" check "$D/wrong" "after free" && says err "write after free: byte 3 of a block of 24 bytes" && says err "freed by"; }
many_after_free() { gives 99 timeout 60 "$unimem" check "$D/wrong" "many after free" && says err "2 problems"; }
double_free() { gives 3 "$unimem" check --exit-code 3 "$D/wrong" "double free" && says err "double free: 0x" && says err "freed by"; }
bad_free() { gives 99 "$unimem" check "$D/wrong" "bad free" && says err "bad free: 0x"; }
crash() { gives 99 "$unimem" check "$D/wrong" crash && says err "overrun: byte 24" && says err "left no report of its end"; }
no_report() { gives 125 "$unimem" check "$D/wrong" underscore && says err "left no report of its end"; }
child() { gives 99 "$unimem" check sh -c "'$D/wrong' overrun; exit 5" && says err "in $D/wrong" && says err "1 problem"; }
no_place() {
    gives 0 env LD_PRELOAD="$B/libunimem-malloc.so" UNIMEM_LOG=error UNIMEM_DEBUG=guard UNIMEM_DEBUG_REPORT="$D/no/report" "$D/wrong" &&
        says err "UNIMEM_DEBUG_REPORT cannot be written: No such file or directory"
}
# Who ends the command, as timeout(1) does, means the program.
ended() {
    mkdir "$D/ended" || return 1
    TMPDIR="$D/ended" "$unimem" check sh -c "echo begun >'$D/begun'; exec sleep 60" 2>"$D/err" &
    command=$!
    until [ -s "$D/begun" ]; do sleep 0.1; done
    kill -TERM $command
    wait $command
    [ $? = 143 ] && [ -z "$(ls "$D/ended")" ]
}
no_rubbish() { mkdir "$D/tmp" && gives 99 env TMPDIR="$D/tmp" "$unimem" check "$D/wrong" leak && [ -z "$(ls "$D/tmp")" ]; }
check_json() {
    gives 99 "$unimem" check --json "$D/wrong" "double free" && python3 - "$D/err" <<'PYTHON'
import json, sys
told = json.load(open(sys.argv[1]))
assert told["exit_code"] == 0 and told["complete"] and told["leaks"] == []
problem, = told["problems"]
assert problem["kind"] == "double free" and problem["size"] == 24
for role, function in ("found", "acts"), ("allocated", "makes_a_block"), ("freed", "acts"):
    assert problem[role][0]["function"] == function and problem[role][0]["file"].endswith("wrong.c"), (role, problem)
PYTHON
}

try "help" helps
try "help of each command" helps_each
try "version" version
try "wrong usage" refuses
try "info" tells
try "info in a pipe has no colours" plain
try "info tells what the environment forces" forced
try "info tells of an unusable spill directory" no_directory
try "info, run and check tell that other pages than those of 4 KiB do not serve" other_pages
try "a reader that goes away" closed_pipe
if command -v python3 >/dev/null; then
    try "info --json" tells_json
    try "info's figures" figures
    try "run --json" stats_json
else
    skip "json" "there is no python3"
fi
if command -v script >/dev/null && script --version 2>/dev/null | grep -q util-linux; then
    on_terminal() { script -qec "$1" /dev/null </dev/null | grep -q "$(printf '\033')"; }
    no_colour() { ! on_terminal "env NO_COLOR=1 $unimem info"; }
    try "colours on a terminal" on_terminal "env TERM=xterm $unimem info"
    try "NO_COLOR" no_colour
else
    skip "colours" "there is no script(1)"
fi
try "run preloads" runs
try "run's options reach the library" passes
try "run gives the program's exit code" codes
try "run tells of a signal" signals
try "run without a program to run" not_found
try "run of what cannot be run" cannot_run
try "run --stats" stats
try "run from a place that the dynamic loader cannot be told" unlucky_place
try "run tells that it cannot record" no_trace
try "run without the library" no_library
try "check of a clean program" clean
try "check gives the program's exit code" keeps_code
try "check finds a leak, and only that" leak
try "check finds leaks to which only what is left on the stack of earlier calls points" deep_leak
try "check finds what was live when an instance ended" closes
try "check finds an overrun" overrun
try "check takes no damaged block for a leak" damaged_is_no_leak
try "check finds an overrun of a block that is never freed" left
try "check finds a write after free" after_free
try "check finds what its own work brings to light" many_after_free
try "check finds a double free" double_free
try "check finds a free of what is no block" bad_free
try "check tells what it found before a crash" crash
try "check says when there was no end to look at" no_report
try "check of the programs that a program runs" child
try "check leaves nothing behind" no_rubbish
try "check that is ended ends the program and leaves nothing behind" ended
try "a report that cannot be written: the log says why" no_place
if command -v python3 >/dev/null; then try "check --json" check_json; else skip "check --json" "there is no python3"; fi
finish
