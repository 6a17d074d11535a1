#!/bin/sh
# Every mixture of {memory_pool, advanced_memory_system, memory_singleton, tree_tensor_network} as legacy C or libunimem,
# shared and static, with every linker there is, with link-time optimisation of the C, and with the C in a shared library
# of its own.
#   swap.sh BUILD
set -u
B=$1
: "${TEST_CC:=cc}" "${SYSTEM_LIBS:=-lpthread -lm -ldl}"
D=$(mktemp -d) || exit 1
trap 'rm -rf "$D"' EXIT
n=0 failures=0

# mixture LETTERS KIND TOOL FLAGS: links and runs one program.
mixture() {
    n=$((n + 1))
    objects=$D/swap_main.o
    case $1 in C???) objects="$objects $D/memory_pool.o" ;; esac
    case $1 in ?C??) objects="$objects $D/advanced_memory_system.o" ;; esac
    case $1 in ??C?) objects="$objects $D/memory_singleton.o" ;; esac
    case $1 in ???C) objects="$objects $D/tree_tensor_network.o" ;; esac
    case $2 in
    so) library="-L$B -lunimem -Wl,-rpath,$PWD/$B" ;;
    a) library="$B/libunimem.a $SYSTEM_LIBS" ;;
    "so after liblegacy.so")
        # shellcheck disable=SC2086  # a list of words
        $TEST_CC $4 -shared "$D/empty.o" ${objects#"$D/swap_main.o"} -o "$D/liblegacy.so" >"$D/log" 2>&1
        objects=$D/swap_main.o
        library="-L$D -llegacy -Wl,-rpath,$D -L$B -lunimem -Wl,-rpath,$PWD/$B"
        ;;
    esac
    # shellcheck disable=SC2086  # lists of words
    if $TEST_CC $4 $objects $library -pthread -o "$D/swap" >"$D/log" 2>&1 && timeout 60 "$D/swap" "$1" >>"$D/log" 2>&1; then
        echo "ok $n - $1 .$2 $3"
    else
        failures=$((failures + 1))
        echo "not ok $n - $1 .$2 $3"
        grep -v '^ok' "$D/log" | sed 's/^/# /'
    fi
}

# compile FLAGS: makes all objects.
compile() {
    for source in swap_main legacy/memory_pool legacy/advanced_memory_system legacy/memory_singleton \
        legacy/tree_tensor_network; do
        # shellcheck disable=SC2086
        $TEST_CC -std=c11 -Wall -Wextra -Werror -pedantic -O2 $1 -Iinclude -Ic_tests -c "c_tests/$source.c" \
            -o "$D/$(basename $source).o" || exit 1
    done
    echo "typedef int empty;" | $TEST_CC -x c -c - -o "$D/empty.o" || exit 1
}

# all TOOL FLAGS KIND...: 16 mixtures of each kind.
all() {
    tool=$1 flags=$2
    shift 2
    for kind in "$@"; do
        for letters in RRR RRC RCR RCC CRR CRC CCR CCC; do
            mixture ${letters}R "$kind" "$tool" "$flags"
            mixture ${letters}C "$kind" "$tool" "$flags"
        done
    done
}

compile ""
for linker in bfd gold lld; do
    if command -v "ld.$linker" >/dev/null; then
        all $linker "-fuse-ld=$linker" so a
    else
        n=$((n + 1))
        echo "ok $n - $linker # SKIP there is no ld.$linker"
    fi
done
compile "-flto"
all "bfd, -flto" "-fuse-ld=bfd -flto -O2" so a
compile "-fPIC"
all "bfd" "-fuse-ld=bfd" "so after liblegacy.so"
echo "1..$n"
[ $failures = 0 ]
