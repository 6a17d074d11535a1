#!/bin/sh
# The ABI that the headers declare is the one of the last release, or more: no function gone, no signature or layout
# another. Definitions are made of all declarations, compiled, and compared by abidiff with packaging/unimem.abi; that
# the library has the same names and layouts is for names.sh and test_layouts.c.
#   abi.sh BUILD            compares, in TAP
#   abi.sh BUILD describe   writes packaging/unimem.abi anew: at a release
set -u
B=$1 RELEASED=packaging/unimem.abi
D=$(mktemp -d) || exit 1
trap 'rm -rf "$D"' EXIT

for tool in abidw abidiff gcc; do
    command -v $tool >/dev/null && continue
    echo "1..0 # SKIP there is no $tool"
    exit
done
if [ "$(uname -m)" != x86_64 ]; then
    echo "1..0 # SKIP the description is of x86_64"
    exit
fi

# declared INCLUDE LIBRARY: a library of what the headers in INCLUDE declare.
declared() {
    cat >"$D/headers.c" <<'C'
#define UNIMEM_NO_OLD_NAMES
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/advanced_memory_system.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"
C
    gcc -std=gnu11 -fsyntax-only -I"$1" -aux-info "$D/prototypes" "$D/headers.c" || return
    {
        cat "$D/headers.c"
        sed -n "s|^/\* $1/.*\*/ extern \(.*\);.*|\1 { __builtin_trap(); }|p" "$D/prototypes"
    } >"$D/definitions.c"
    gcc -std=gnu2x -g -w -shared -fPIC -I"$1" "$D/definitions.c" -o "$2"
}
# compare LIBRARY
compare() {
    abidiff --no-added-syms --no-show-locs "$RELEASED" "$1"
}

declared include "$D/libunimem.so" || exit
if [ "${2:-}" = describe ]; then
    abidw --no-show-locs --no-corpus-path --no-comp-dir-path "$D/libunimem.so" | sed "s|$D/||" >"$RELEASED"
    exit
fi

n=0 failures=0
# result WHETHER NAME: one test; what was said is in "$D/log".
result() {
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
    else
        failures=$((failures + 1))
        echo "not ok $n - $2"
        sed 's/^/# /' "$D/log"
    fi
}
nm -D --defined-only "$D/libunimem.so" | awk '{ print $3 }' | sort | diff "$B/names" - >"$D/log"
result $? "the headers declare what the library exports"
compare "$D/libunimem.so" >"$D/log" 2>&1
result $? "nothing of the released ABI has changed"

# changed FILE EDIT NAME: the comparison fails where a header in a copy of ours is edited so.
changed() {
    rm -rf "$D/include" && cp -r include "$D/include"
    sed "$2" "include/$1" >"$D/include/$1"
    if cmp -s "include/$1" "$D/include/$1"; then
        echo "the edit changes nothing" >"$D/log"
        result 1 "$3"
    else
        declared "$D/include" "$D/changed.so" && ! compare "$D/changed.so" >"$D/log" 2>&1
        result $? "$3"
    fi
}
changed unimem.h '/^bool unimem_owns(/d' "a function that is gone is found"
changed unimem.h 's/^size_t unimem_usable_size(/int unimem_usable_size(/' "so is another result"
changed unimem.h '/cache_hits;/d' "so is a structure that lacks a field"
changed unimem/tree_tensor_network.h 's/size_t num_qubits; /unsigned num_qubits; /' "so is one whose field is smaller"
changed unimem.h 's/UNIMEM_READ = 0,/UNIMEM_READ = 7,/' "so is another value of an enumerator"
echo "1..$n"
[ $failures = 0 ]
