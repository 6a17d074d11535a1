#!/bin/sh
# The swap with the real thing: a tree of the quantum geometry project (github.com/tsotchke/quantum_geometric_tensor),
# whose own test programs run with its own C, then with each mixture of its four memory files and libunimem, shared and
# static.    legacy_project.sh BUILD TREE [TEST...]
# Its sources are read, never changed. What does not compile here, as it needs other libraries, is left out; names that
# stay undefined are let pass, so that a test program that needs them crashes with every mixture alike.
# A test fails if it ended well with the project's own C and does not with a mixture.
set -u
B=$1 TREE=$2
shift 2
. c_tests/try.sh
: "${TEST_CC:=cc}" "${SYSTEM_LIBS:=}"
FILES="memory_pool advanced_memory_system memory_singleton tree_tensor_network"
CORE=src/quantum_geometric/core
[ -f "$TREE/$CORE/memory_pool.c" ] || { echo "$TREE/$CORE/memory_pool.c: no such file" >&2; exit 2; }
[ $# -gt 0 ] || set -- test_memory_pool test_tensor_network test_quantum_simulator_cpu test_quantum_geometric_attention \
    test_quantum_backends test_tensor_operations

compile() {
    # shellcheck disable=SC2046  # a list of flags
    $TEST_CC -w -O1 -g -march=native -D_GNU_SOURCE -I"$TREE/include" -I"$TREE/src" -I"$TREE/tests" \
        $(pkg-config --cflags cblas 2>/dev/null) -c "$1" -o "$2" 2>/dev/null
}
echo "# compiling $TREE"
mkdir "$D/objects"
(cd "$TREE" && find src -name '*.c' ! -name '*metal*' ! -name '*cuda*') | while read -r source; do
    compile "$TREE/$source" "$D/objects/$(echo "$source" | tr / _).o"
done
for file in $FILES; do
    mv "$D/objects/$(echo "$CORE/$file.c" | tr / _).o" "$D/$file.o" ||
        { echo "$file.c does not compile" >&2; exit 2; }
done
ar rcs "$D/rest.a" "$D"/objects/*.o

# link PROGRAM OBJECTS LIBRARY...: the legacy objects come first, as where they stand in a Makefile.
link() {
    program=$1
    shift
    # shellcheck disable=SC2086  # a list of libraries
    $TEST_CC -no-pie "$@" "$D/rest.a" -Wl,-z,lazy -Wl,-z,muldefs -Wl,--unresolved-symbols=ignore-all \
        $LIBRARIES -lpthread -lm -ldl -o "$program" 2>"$D/link.log"
}
LIBRARIES=
for library in lapacke lapack openblas fftw3 numa hwloc json-c curl; do
    echo 'int main(void) { return 0; }' >"$D/none.c"
    $TEST_CC "$D/none.c" -l$library -o "$D/none" 2>/dev/null && LIBRARIES="$LIBRARIES -l$library"
done
# ends PROGRAM: its exit code; on stderr what the shell says of a crash.
ends() {
    (cd "$D" && timeout 20 "$1" </dev/null >"$D/said" 2>&1)
    echo $?
}
for test in "$@"; do
    if ! compile "$TREE/tests/$test.c" "$D/$test.o"; then
        skip "$test" "it does not compile here"
        continue
    fi
    # shellcheck disable=SC2046,SC2086  # lists of files
    if ! link "$D/$test" "$D/$test.o" $(printf "$D/%s.o " $FILES); then
        skip "$test" "it does not link here"
        continue
    fi
    own=$(ends "$D/$test" 2>/dev/null)
    for kind in shared static; do
        codes='' worse=0
        for mixture in $(seq 0 14); do
            kept='' bit=1
            for file in $FILES; do
                [ $((mixture & bit)) = 0 ] || kept="$kept $D/$file.o"
                bit=$((bit * 2))
            done
            if [ $kind = shared ]; then library="-L$B -lunimem -Wl,-rpath,$PWD/$B"; else library="$B/libunimem.a"; fi
            # shellcheck disable=SC2086  # lists of words
            link "$D/$test" "$D/$test.o" $kept $library "$D/rest.a" $library || { worse=1 codes="$codes link"; continue; }
            code=$(ends "$D/$test" 2>/dev/null)
            codes="$codes $code"
            [ "$own" = 0 ] && [ "$code" != 0 ] && worse=1
        done
        echo "# $test, $kind: its own C ends with $own, the 15 mixtures with$codes"
        if [ "$own" = 0 ] || [ $worse = 1 ]; then
            try "$test, $kind" [ $worse = 0 ]
        else
            skip "$test, $kind" "with its own C it ends with $own"
        fi
    done
done
finish
