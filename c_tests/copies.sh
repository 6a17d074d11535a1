#!/bin/sh
# Loading, unloading, and several copies of the library in one program, with each fault mechanism.  copies.sh BUILD
set -u
B=$1 T=$1/tests
: "${TEST_CC:=cc}" "${SYSTEM_LIBS:=}"
n=0 failures=0

# build PROGRAM FLAGS SOURCE LIBRARIES
build() {
    # shellcheck disable=SC2086  # lists of words
    $TEST_CC -std=gnu11 -Wall -Wextra -Werror -g -O2 -pthread $2 -Iinclude -Ic_tests "c_tests/$3" -o "$T/$1" $4 -lm -ldl && return
    echo "not ok - $1 does not compile"
    exit 1
}
build copies_plugin.so "-shared -fPIC -Wl,-z,nodelete -Wl,--exclude-libs,ALL" plugin.c "$B/libunimem.a $SYSTEM_LIBS"
build copies_unlinked "" copies.c ""
build copies_shared -DLINKED=1 copies.c "-L$B -lunimem -Wl,-rpath,$PWD/$B"
build copies_static -DLINKED=2 copies.c "$B/libunimem.a $SYSTEM_LIBS"

for mechanism in userfaultfd signal; do
    if ! UNIMEM_FAULTS=$mechanism "$B/unimem" info | grep -q "^  used  *$mechanism\$"; then
        n=$((n + 1))
        echo "ok $n - $mechanism # SKIP this system does not have it"
        continue
    fi
    for program in unlinked shared static; do
        UNIMEM_FAULTS=$mechanism timeout 60 "$T/copies_$program" "$B/libunimem.so" "$T/copies_plugin.so" >"$T/copies.log" 2>&1
        status=$?
        grep '^#' "$T/copies.log"
        # The lines of each program, numbered through.
        while read -r line; do
            case $line in
            'ok '* | 'not ok '*) n=$((n + 1)) && echo "$line" | sed "s/ok [0-9]* - /ok $n - $mechanism, $program: /" ;;
            esac
        done <"$T/copies.log"
        [ $status = 0 ] && continue
        failures=$((failures + 1)) n=$((n + 1))
        echo "not ok $n - $mechanism, $program: ended with $status"
    done
done
echo "1..$n"
[ $failures = 0 ]
