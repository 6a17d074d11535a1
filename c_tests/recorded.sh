#!/bin/sh
# Recordings: a program that says what it did is recorded in every way there is, and each file that unimem report makes of
# it is opened and compared.  recorded.sh BUILD
set -u
B=$1
: "${TEST_CC:=cc}"
if ! command -v python3 >/dev/null; then
    echo "1..0 # SKIP there is no python3"
    exit 0
fi
# shellcheck source=c_tests/try.sh
. c_tests/try.sh
unset NO_COLOR LD_PRELOAD UNIMEM_TRACE UNIMEM_TRACE_INTERVAL UNIMEM_DEBUG

unimem=$B/unimem
# shellcheck disable=SC2086  # a list of words
$TEST_CC -std=c11 -Wall -Wextra -Werror -pedantic -O1 -g -pthread -Iinclude c_tests/recorded.c -o "$D/recorded" \
    -L"$B" -lunimem -Wl,-rpath,"$(cd "$B" && pwd)" || exit 1
cat >"$D/plain.c" <<'C'
#include <stdlib.h>
#include <string.h>
static void *kept[4000];
__attribute__((noinline)) void keep_blocks(void)
{
    for (int i = 0; i < 4000; i++) memset(kept[i] = malloc(1500), 1, 1500);
}
int main(void)
{
    keep_blocks();
    for (int i = 0; i < 2000; i += 2) free(kept[i]);
    return 0;
}
C
$TEST_CC -O1 -g "$D/plain.c" -o "$D/plain" || exit 1

# record MODE [FILE]: what the program says goes to $D/said.
record() {
    rm -f "$D/$1.trace"
    UNIMEM_TRACE="$D/$1.trace" "$D/recorded" "$@" >"$D/said" || return 1
    "$unimem" report --json "$D/$1.trace" >"$D/report.json"
}
# agrees: the report has what the program said; events, samples and totals have the same numbers.
agrees() {
    python3 - "$D/said" "$D/report.json" <<'PYTHON'
import json, sys
said, report = (json.load(open(path)) for path in sys.argv[1:])
count = lambda event: sum(m["count"] for m in report["movements"] if m["event"] == event)
assert report["complete"] and report["lost_events"] == 0
assert count("fault") >= said["faults"], (count("fault"), said)
assert count("eviction") >= said["evictions"], (count("eviction"), said)
# What came after the program asked: the contractions' own chunks, and chunks that left to make room for them.
assert count("fault") <= said["faults"] + 20 and count("eviction") <= said["evictions"] + 40
assert all(m["bytes"] == m["count"] << 20 for m in report["movements"])
assert {m["memory"] for m in report["movements"]} == {"streaming", "hierarchical"}
assert len(report["contractions"]) == said["contractions"] == 5
for c in report["contractions"]:
    assert c["flops"] == 8 * 256**3 and (c["rows"], c["columns"], c["sums"]) == ([256], [256], [256]) and c["seconds"] > 0
assert report["live_at_end"] == {"blocks": said["leaked_blocks"], "bytes": said["leaked_bytes"]}, report["live_at_end"]
last = report["sizes"][-1]["classes"]
assert last == [{"up_to": 2048, "blocks": said["leaked_blocks"], "bytes": said["leaked_bytes"]}], last
largest = max(s["streaming"]["allocated"] for s in report["samples"])
assert largest == 80 << 20 and max(s["hierarchical"]["allocated"] for s in report["samples"]) == 40 << 20
assert max(s["geometric"] for s in report["samples"]) <= report["peak"]["held"]
assert len(report["sizes"]) <= 20 < len(report["samples"]), "sizes are told where live memory has doubled, and at the end"
assert max(s["plain"] for s in report["samples"]) < 40 << 20, "tiered memory is not plain"
for s in report["samples"]:
    assert s["streaming"]["hot"] + s["hierarchical"]["hot"] <= 24 << 20
assert report["samples"][-1]["plain"] == said["leaked_bytes"]
leak = max(report["sites"], key=lambda site: site["live_bytes"])
assert leak["stack"][0]["function"] == "leak_blocks" and leak["stack"][1]["function"] == "main", leak
assert leak["stack"][0]["file"].endswith("recorded.c") and leak["stack"][0]["line"] > 0
assert abs(leak["live_bytes"] - said["leaked_bytes"]) < 1 << 20
assert sum(site["live_bytes"] for site in report["sites"]) == leak["live_bytes"], "what was freed is not live"
PYTHON
}
environment() { record environment && agrees; }
by_call() {
    rm -f "$D/start.trace"
    "$D/recorded" start "$D/start.trace" >"$D/said" && "$unimem" report --json "$D/start.trace" >"$D/report.json" && agrees
}
forked() {
    record fork "$D/child.trace" && agrees && gives 0 "$unimem" report --json "$D/child.trace" && python3 - "$D/out" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["complete"] and sum(m["count"] for m in report["movements"] if m["event"] == "fault") > 0
PYTHON
}
# A pool's blocks are counted in its system too, but live once. The system and the pool are blocks themselves.
pooled() {
    record pooled && python3 - "$D/said" "$D/report.json" <<'PYTHON'
import json, sys
said, report = (json.load(open(path)) for path in sys.argv[1:])
live, last = report["live_at_end"], report["samples"][-1]
assert live["blocks"] == said["leaked_blocks"] + 2 and said["leaked_bytes"] < live["bytes"] < said["leaked_bytes"] + 1000, live
assert last["plain"] == live["bytes"], last
PYTHON
}
killed() {
    rm -f "$D/killed.trace"
    UNIMEM_TRACE="$D/killed.trace" "$D/recorded" killed >"$D/said" 2>/dev/null
    gives 0 "$unimem" report --json "$D/killed.trace" && says err "has no end" && cp "$D/out" "$D/report.json" &&
        python3 - "$D/said" "$D/report.json" <<'PYTHON'
import json, sys
said, report = (json.load(open(path)) for path in sys.argv[1:])
assert not report["complete"] and report["live_at_end"] is None
assert sum(m["count"] for m in report["movements"] if m["event"] == "fault") >= said["faults"]
assert report["samples"][-1]["plain"] == said["leaked_bytes"]
assert any(site["stack"][0]["function"] == "leak_blocks" for site in report["sites"])
PYTHON
}
preloaded() {
    gives 0 "$unimem" run --trace "$D/plain.trace" "$D/plain" && gives 0 "$unimem" report --json "$D/plain.trace" &&
        python3 - "$D/out" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["complete"] and report["command"][0].endswith("/plain")
assert report["live_at_end"]["bytes"] >= 3000 * 1500
site = report["sites"][0]
names = [call["function"] for call in site["stack"]]
assert names[0] in ("malloc", "keep_blocks") and "keep_blocks" in names[:2] and "main" in names[:3], names
assert abs(site["bytes"] - 4000 * 1500) < 1 << 20 and 3 << 20 < site["live_bytes"] < site["bytes"], site
PYTHON
}
each_process() {
    gives 0 "$unimem" run --trace "$D/each.%p.trace" sh -c "$D/plain; $D/plain; :" && set -- "$D"/each.*.trace &&
        [ $# = 3 ] && for file; do "$unimem" report --json "$file" >/dev/null || return 1; done
}
locked() {
    # The program that records is still there when its child wants the same file. (A shell would end without writing the end.)
    printf '#include <stdlib.h>\nint main(int count, char **words) { %s return count == 2 ? system(words[1]) : 1; }\n' \
        'void *volatile block = malloc(100); if (!block) return 1;' >"$D/parent.c" && $TEST_CC -O1 "$D/parent.c" -o "$D/parent" &&
        gives 0 "$unimem" run --trace "$D/locked.trace" "$D/parent" "$D/plain" &&
        gives 0 "$unimem" report --json "$D/locked.trace" &&
        python3 -c 'import json, sys; assert json.load(open(sys.argv[1]))["command"][0] == sys.argv[2]' "$D/out" "$D/parent"
}

# chrome: every event there is, and nothing else; they nest in their threads.
chrome() {
    gives 0 "$unimem" report --chrome "$D/chrome.json" "$D/environment.trace" && [ ! -s "$D/out" ] &&
        python3 - "$D/chrome.json" "$D/report.json" <<'PYTHON'
import json, sys
events, report = json.load(open(sys.argv[1]))["traceEvents"], json.load(open(sys.argv[2]))
done = [e for e in events if e["ph"] == "X"]
for m in report["movements"]:
    same = [e for e in done if e["name"] == m["event"] and all(e["args"][k] == m[k] for k in ("memory", "tier", "mechanism"))]
    assert len(same) == m["count"] and sum(e["args"]["bytes"] for e in same) == m["bytes"]
    assert abs(sum(e["dur"] for e in same) / 1e6 - m["seconds"]) < 1e-6
assert sum(e["cat"] == "contraction" for e in done) == len(report["contractions"]) == 5
assert len(done) == 5 + sum(m["count"] for m in report["movements"])
counters = [e for e in events if e["ph"] == "C"]
assert len(counters) == 5 * len(report["samples"])
assert max(e["args"]["bytes"] for e in counters if e["name"] == "resident") == report["peak"]["resident"]
assert {e["pid"] for e in events} == {report["process"]}
assert {e["name"] for e in events if e["ph"] == "M"} == {"process_name", "thread_name"}
assert all(0 <= e["ts"] <= report["seconds"] * 1e6 for e in done + counters)
PYTHON
}
# pprof: decoded by hand, the sums are those of the report, and the leak's stack is there by name.
pprof() {
    gives 0 "$unimem" report --pprof "$D/profile.pb.gz" "$D/environment.trace" &&
        python3 - "$D/profile.pb.gz" "$D/report.json" <<'PYTHON'
import gzip, json, sys
def number(data, at):
    value = shift = 0
    while True:
        byte = data[at]; value |= (byte & 127) << shift; at += 1; shift += 7
        if byte < 128: return value, at
def fields(data):
    at = 0
    while at < len(data):
        key, at = number(data, at)
        value, at = number(data, at)
        if key & 7 == 2: value, at = data[at:at + value], at + value
        else: assert key & 7 == 0
        yield key >> 3, value
def several(data):
    at, all = 0, []
    while at < len(data):
        value, at = number(data, at); all.append(value)
    return all
profile = list(fields(gzip.open(sys.argv[1]).read()))
report = json.load(open(sys.argv[2]))
of = lambda wanted: [value for field, value in profile if field == wanted]
text = [value.decode() for value in of(6)]
assert text[0] == "" and len(set(text)) == len(text)
types = [tuple(text[dict(fields(t))[k]] for k in (1, 2)) for t in of(1)]
assert types == [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")]
functions = {dict(fields(f))[1]: text[dict(fields(f))[2]] for f in of(5)}
places = {}
for location in of(4):
    known = dict((k, v) for k, v in fields(location) if k != 4)
    places[known[1]] = [functions[dict(fields(line))[1]] for k, line in fields(location) if k == 4]
samples = [dict(fields(sample)) for sample in of(2)]
values = [several(sample[2]) for sample in samples]
assert sum(v[1] for v in values) == sum(site["bytes"] for site in report["sites"])
assert sum(v[3] for v in values) == sum(site["live_bytes"] for site in report["sites"])
live = max(range(len(values)), key=lambda i: values[i][3])
stack = [name for place in several(samples[live][1]) for name in places[place]]
assert stack[:2] == ["leak_blocks", "main"], stack
mapped = [dict(fields(m)) for m in of(3)]
assert any(text[m[5]].endswith("/recorded") and m[2] < m[3] for m in mapped)
assert len({(text[m[5]], m[2], m[3]) for m in mapped}) == len(mapped)
assert text[of(14)[0]] == "inuse_space" and of(12)[0] == report["sampling_interval"]
PYTHON
}
# The page is well formed, whole in itself, and says the figures.
page() {
    gives 0 "$unimem" report "$D/environment.trace" -o "$D/page.html" && python3 - "$D/page.html" "$D/report.json" <<'PYTHON'
import html.parser, json, sys
page, report = open(sys.argv[1]).read(), json.load(open(sys.argv[2]))
class Reader(html.parser.HTMLParser):
    open, ids, words, shapes = [], [], [], 0
    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.shapes += tag in ("polygon", "polyline")
        assert tag != "script" and not {"src", "href"} & set(attributes)
        if "id" in attributes: self.ids.append(attributes["id"])
        if tag not in ("meta",): self.open.append(tag)
    def handle_startendtag(self, tag, attributes):
        self.shapes += tag in ("polygon", "polyline", "rect")
    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
    def handle_data(self, data):
        self.words.append(data)
reader = Reader()
reader.feed(page)
assert reader.open == [] and reader.shapes > 20
assert reader.ids == ["kinds", "tiers", "faults", "contractions", "sizes", "sites", "leaks"]
words = " ".join(reader.words)
assert "5.7 MiB had not been freed" in words and "3\u202f000 blocks" in words and "leak_blocks" in words
for m in report["movements"]:
    assert m["mechanism"] in words and m["tier"] in words
assert "[256; 256]·[256; 256]" in words and "5 contractions" in words and "//" not in words.replace("://", "")
PYTHON
}
# A program that was built anew since: its addresses have other names now.
changed() {
    cp "$D/plain" "$D/anew" && gives 0 "$unimem" run --trace "$D/anew.trace" "$D/anew" &&
        gives 0 "$unimem" report --json "$D/anew.trace" && says out '"keep_blocks"' && touch -d 2001-01-01 "$D/anew" &&
        gives 0 "$unimem" report --json "$D/anew.trace" && says out '"anew+0x' && ! says out '"keep_blocks"'
}
beside() { gives 0 "$unimem" report "$D/plain.trace" && [ "$(cat "$D/out")" = "$D/plain.trace.html" ] && [ -s "$D/plain.trace.html" ]; }

# Files that are none.
refused() {
    : >"$D/empty" && gives 1 "$unimem" report "$D/empty" && says err "is empty" &&
        echo "#!/bin/sh something else" >"$D/other" && gives 1 "$unimem" report "$D/other" && says err "not a recording" &&
        gives 1 "$unimem" report "$D/nowhere" && says err "$D/nowhere" && [ ! -e "$D/empty.html" ]
}
damaged() {
    python3 - "$D/environment.trace" "$D/damaged" "$D/newer" <<'PYTHON'
import sys
whole = bytearray(open(sys.argv[1], "rb").read())
newer = bytearray(whole); newer[8] += 1
open(sys.argv[3], "wb").write(newer)
whole[len(whole) // 2] ^= 4
open(sys.argv[2], "wb").write(whole)
PYTHON
    gives 1 "$unimem" report "$D/damaged" && says err "damaged: the block at byte" &&
        gives 1 "$unimem" report "$D/newer" && says err "version 2"
}
cut() {
    size=$(($(wc -c <"$D/environment.trace") / 2))
    head -c $size "$D/environment.trace" >"$D/cut" && gives 0 "$unimem" report --json "$D/cut" &&
        says err "what came before is shown" && says out '"complete": false' && head -c 20 "$D/environment.trace" >"$D/short" &&
        gives 0 "$unimem" report --json "$D/short" && says err "what came before is shown" && says out '"samples": []'
}
# A program may be gone before the first sample: its recording is empty, and says of which program.
left_at_once() {
    UNIMEM_TRACE="$D/left.trace" gives 0 "$D/recorded" left && gives 0 "$unimem" report --json "$D/left.trace" &&
        says err "has no end" && says out '"left"' && gives 0 "$unimem" report -o "$D/left.html" "$D/left.trace" &&
        gives 0 "$unimem" report --chrome "$D/left.json" "$D/left.trace" &&
        gives 0 "$unimem" report --pprof "$D/left.pb.gz" "$D/left.trace" &&
        gives 0 "$unimem" report -o "$D/short.html" "$D/short" && gives 0 "$unimem" report --chrome "$D/short.json" "$D/short" &&
        gives 0 "$unimem" report --pprof "$D/short.pb.gz" "$D/short"
}
itself() {
    cp "$D/environment.trace" "$D/copy" && ln "$D/copy" "$D/hard" && ln -s copy "$D/soft" &&
        for name in copy hard soft; do
            gives 2 "$unimem" report -o "$D/$name" "$D/copy" && cmp "$D/copy" "$D/environment.trace" || return 1
        done
}
unwritable() { gives 1 "$unimem" report -o "$D/no/page.html" "$D/environment.trace" && says err "$D/no/page.html"; }
# The disk of the recording is full: the program does what it does without one, and the log says so.
full() {
    mount -t tmpfs -o size=16k tmpfs "$D/small" || return 1
    UNIMEM_LOG=error UNIMEM_TRACE=$D/small/trace gives 0 "$D/recorded" && says out leaked_bytes &&
        { says err "recording ends here" || says err "could not be written to its end"; } # noticed by the last write
    held=$?
    umount "$D/small"
    return $held
}
nowhere() { UNIMEM_LOG=error UNIMEM_TRACE=$D/no/trace gives 0 "$D/recorded" &&
    says err "nothing is recorded: No such file or directory (ENOENT): $D/no/trace"; }
# A program that closes what it does not know, and opens files of its own: they stay as they are.
closed() {
    cat >"$D/closer.c" <<'C'
#include <fcntl.h>
#include <semaphore.h>
#include <string.h>
#include <unistd.h>
#include "unimem.h"
static sem_t ended;
static void note(int level, const char *message, void *context)
{
    (void)level, (void)context;
    if (strstr(message, "recording ends here")) sem_post(&ended);
}
int main(int count, char **arguments)
{
    unified_memory_interface_t *memory = unimem_global();
    memory->free(memory->allocate(4 << 20, 0));
    (void)count;
    sem_init(&ended, 0, 0);
    unimem_set_log(note, NULL);
    for (int i = 3; i < 1024; i++) close(i);
    for (int i = 3; i < 600; i++) open(arguments[1], O_RDWR | O_CREAT, 0600);
    alarm(60);
    while (sem_wait(&ended) != 0) continue;
    return unimem_trace_stop();
}
C
    $TEST_CC -std=gnu11 -Iinclude -pthread "$D/closer.c" -o "$D/closer" -L"$B" -lunimem -Wl,-rpath,"$(cd "$B" && pwd)" &&
        UNIMEM_LOG=error UNIMEM_TRACE=$D/closer.trace gives 0 "$D/closer" "$D/theirs" && says err "recording ends here" &&
        [ ! -s "$D/theirs" ]
}

try "recorded as the environment says" environment
try "trace events" chrome
try "profile" pprof
try "page" page
try "begun and ended by the program" by_call
try "a forked child is no part of it, and records itself" forked
try "a memory system's pool" pooled
try "a program that is killed" killed
try "preloaded" preloaded
try "a page beside the recording" beside
try "a program that has changed since" changed
try "a file for each process" each_process
try "a file is one process's" locked
try "what is no recording" refused
try "damaged, or newer" damaged
try "cut off" cut
try "left before the first sample" left_at_once
try "a page in the recording's place" itself
try "a page that cannot be written" unwritable
try "a file that cannot be made" nowhere
try "descriptors closed by the program" closed
if mkdir "$D/small" && mount -t tmpfs -o size=16k tmpfs "$D/small" 2>/dev/null; then
    umount "$D/small"
    try "a full disk" full
else
    skip "a full disk" "not permitted to mount one"
fi
finish
