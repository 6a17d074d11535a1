#!/bin/sh
# Every mixture of {memory_pool, advanced_memory_system, memory_singleton} as legacy C or libunimem, shared and static,
# with every linker there is, and with link-time optimisation of the C.  swap.sh BUILD
set -u
B=$1
: "${CC:=cc}" "${SYSTEM_LIBS:=-lgcc_s -lpthread -lm -ldl -lc}"
D=$(mktemp -d) || exit 1
trap 'rm -rf "$D"' EXIT
n=0 failures=0

# mixture LETTERS KIND TOOL FLAGS: links and runs one program.
mixture() {
    n=$((n + 1))
    objects=$D/swap_main.o
    case $1 in C??) objects="$objects $D/memory_pool.o" ;; esac
    case $1 in ?C?) objects="$objects $D/advanced_memory_system.o" ;; esac
    case $1 in ??C) objects="$objects $D/memory_singleton.o" ;; esac
    case $2 in
    so) library="-L$B -lunimem -Wl,-rpath,$PWD/$B" ;;
    a) library="$B/libunimem.a $SYSTEM_LIBS" ;;
    esac
    # shellcheck disable=SC2086  # lists of words
    if $CC $4 $objects $library -pthread -o "$D/swap" >"$D/log" 2>&1 && timeout 60 "$D/swap" "$1" >>"$D/log" 2>&1; then
        echo "ok $n - $1 .$2 $3"
    else
        failures=$((failures + 1))
        echo "not ok $n - $1 .$2 $3"
        grep -v '^ok' "$D/log" | sed 's/^/# /'
    fi
}

# compile FLAGS: makes all objects.
compile() {
    for source in swap_main legacy/memory_pool legacy/advanced_memory_system legacy/memory_singleton; do
        # shellcheck disable=SC2086
        $CC -std=c11 -Wall -Wextra -Werror -pedantic -O2 $1 -Iinclude -Ic_tests -c "c_tests/$source.c" \
            -o "$D/$(basename $source).o" || exit 1
    done
}

# all TOOL FLAGS: 8 mixtures, shared and static.
all() {
    for kind in so a; do
        for letters in RRR RRC RCR RCC CRR CRC CCR CCC; do
            mixture $letters $kind "$1" "$2"
        done
    done
}

compile ""
for linker in bfd gold lld; do
    if command -v "ld.$linker" >/dev/null; then
        all $linker "-fuse-ld=$linker"
    else
        n=$((n + 1))
        echo "ok $n - $linker # SKIP there is no ld.$linker"
    fi
done
compile "-flto"
all "bfd, -flto" "-fuse-ld=bfd -flto -O2"
echo "1..$n"
[ $failures = 0 ]
