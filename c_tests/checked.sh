#!/bin/sh
# The C tests and the soak with a checked build of the library.  checked.sh BUILD MINUTES
# From the environment: what run.sh takes.
B=$1
# With another one all would pass.
grep -q "and elsewhere the other way round" "$B/libunimem.so" || { echo "$B/libunimem.so is no checked build" >&2 && exit 1; }
UNIMEM_TEST_FINDINGS=$PWD/$B/findings
: >"$UNIMEM_TEST_FINDINGS" || exit 1
export UNIMEM_TEST_FINDINGS
# Without what is the same for every build, and valgrind, which has nothing to do with locks.
AGAIN=1 EXCEPT="cargo test|headers|abi|documents|installed tree" VALGRIND=0 SOAK=$2 exec sh c_tests/run.sh "$B"
