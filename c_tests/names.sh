#!/bin/sh
# The libraries give the names of unimem.map and no other.  names.sh BUILD
set -u
B=$1 n=0 failures=0
D=$(mktemp -d) || exit 1
trap 'rm -rf "$D"' EXIT

# same NAME EXPECTED GOT: one test.
same() {
    n=$((n + 1))
    if diff -u "$2" "$3" >"$D/difference"; then
        echo "ok $n - $1"
    else
        failures=$((failures + 1))
        echo "not ok $n - $1"
        sed 's/^/# /' "$D/difference"
    fi
}

nm -D --defined-only "$B/libunimem.so" | awk '$2 != "A" { print $3 }' | sort >"$D/shared"
same "libunimem.so exports the names of unimem.map" "$B/names" "$D/shared"
while read -r name; do grep -q "[^a-z_]$name(" c_tests/test_stack.c || echo "$name"; done <"$B/names" >"$D/unmeasured"
same "the stack of all of them is measured" /dev/null "$D/unmeasured"
nm -g --defined-only "$B/libunimem.a" | awk 'NF == 3 { print $3 }' | sort >"$D/static"
same "so does libunimem.a" "$B/names" "$D/static"
nm -g --defined-only "$B/libunimem.a" | awk 'NF == 3 && $2 != "W" && $2 != "V" { print $3 }' >"$D/strong"
same "all of libunimem.a's can be replaced" /dev/null "$D/strong"
readelf -d "$B/libunimem.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p' >"$D/soname"
readlink "$B/libunimem.so" >"$D/link"
same "the soname is the one the link names" "$D/link" "$D/soname"
readelf -d "$B/libunimem.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -Ev '^(libgcc_s|libpthread|libm|libdl|libc|ld-linux.*)\.so' >"$D/needed"
same "nothing is needed but the C library and libgcc_s" /dev/null "$D/needed"
echo "1..$n"
[ $failures = 0 ]
