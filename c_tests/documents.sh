#!/bin/sh
# Every snippet of the documents does what it says: blocks of C compile and run, blocks of sh run, as a reader would run
# them, with an installed tree. And what documents and comments name is there.  documents.sh BUILD
#
# A block of C is a program if it has a main; else statements, put into a function that has `memory`, an interface with
# a cap of 64 MiB, and must leave nothing behind in it. Programs are kept as program.c for the sh blocks behind them in
# the same document, which run in a directory with the examples. A comment <!-- not run: WHY --> in the line before a
# block leaves it out, and shows as skipped. Blocks of any other language but text are an error: nobody would run them.
set -u
: "${TEST_CC:=cc}" "${MAKE:=make}"
# shellcheck source=c_tests/try.sh
. c_tests/try.sh

mkdir "$D/scratch" "$D/blocks"
if ! "$MAKE" --no-print-directory install B="$1" PREFIX="$D/tree" >"$D/log" 2>&1; then
    echo "not ok 1 - install"
    sed 's/^/# /' "$D/log"
    echo "1..1"
    exit 1
fi
cp examples/*.c "$D/scratch"
PATH=$D/tree/bin:$PATH PKG_CONFIG_PATH=$D/tree/lib/pkgconfig LD_LIBRARY_PATH=$D/tree/lib UNIMEM_SPILL_DIR=$D/scratch
export PATH PKG_CONFIG_PATH LD_LIBRARY_PATH UNIMEM_SPILL_DIR

in_scratch() {
    (cd "$D/scratch" && "$@")
}
# Statements become a program.
wrap() {
    cat <<'C'
#define _GNU_SOURCE
#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unimem.h>
#include <unimem/memory_pool.h>
#include <unimem/memory_singleton.h>
#include <unimem/tree_tensor_network.h>
static void statements(unified_memory_interface_t *memory) {
    (void)memory;
C
    cat "$1"
    cat <<'C'
}
int main(void) {
    unified_pool_config_t config = {.max_size = 64u << 20, .enable_growth = true, .enable_streaming = true};
    unified_memory_interface_t *memory = unimem_open(&config);
    if (!memory) return 1;
    statements(memory);
    return !unimem_close(memory);
}
C
}
compile() {
    $TEST_CC -std=c11 -Wall -Wextra -Werror -pedantic -g -pthread -I"$D/tree/include" "$1" -o "$D/scratch/a.out" \
        -L"$D/tree/lib" -lunimem -lm
}
c_block() {
    if grep -q '^int main(' "$1"; then cp "$1" "$D/scratch/program.c"; else wrap "$1" >"$D/scratch/statements.c"; fi
    if grep -q '^int main(' "$1"; then compile program.c; else compile statements.c; fi && timeout 60 ./a.out
}
sh_block() { timeout 60 sh -eu "$1"; }

# The blocks of a document, each a file: line, language and the reason not to run it in its name and first lines.
blocks() {
    awk -v out="$D/blocks/" '
        /^ *```/ && !inside {
            inside = 1; language = $0; sub(/^ *```/, "", language); number++
            file = sprintf("%s%03d", out, number)
            print NR, (language == "" ? "text" : language), file, why
            printf "" > file
            next
        }
        /^ *```/ { inside = 0; close(file); why = ""; next }
        inside { print > file; next }
        /^<!-- not run: .* -->$/ { why = $0; sub(/^<!-- not run: /, "", why); sub(/ -->$/, "", why); next }
        NF { why = "" }' "$1"
}

for document in README.md docs/*.md; do
    rm -f "$D"/blocks/* "$D/scratch/program.c" "$D/scratch/program"
    blocks "$document" >"$D/list"
    while read -r line language file why; do
        name="$document:$line ($language)"
        if [ "$language" = text ]; then
            continue
        elif [ -n "$why" ]; then
            skip "$name" "$why"
        else
            case $language in
            c) try "$name" in_scratch c_block "$file" ;;
            sh)
                if grep -q pkg-config "$file" && ! command -v pkg-config >/dev/null; then
                    skip "$name" "there is no pkg-config"
                elif grep -q mpicc "$file" && ! command -v mpicc >/dev/null; then
                    skip "$name" "there is no MPI"
                else
                    try "$name" in_scratch sh_block "$file"
                fi
                ;;
            # Tested by Cargo, if the library's documentation takes the document in.
            rust) try "$name" grep -q "include_str!(\"../../$document\")" "$PWD/src/rust_api/mod.rs" ;;
            *) try "$name" sh -c "echo 'no test runs blocks of $language'; exit 1" ;;
            esac
        fi
    done <"$D/list"
    # Links to files of this tree lead somewhere.
    broken=$(grep -o '](\([^)#:]*\)[)#]' "$document" | sed 's/^](//; s/[)#]$//' | sort -u |
        while read -r target; do [ -e "$(dirname "$document")/$target" ] || echo "$target"; done)
    try "$document: links" test -z "$broken"
    [ -z "$broken" ] || printf '%s\n' "$broken" | sed 's/^/# no such file: /'
done

# ---- names ----
# Text of documents without their blocks; comments of the Rust code; the code without them.
prose() { awk '/^ *```/ { inside = !inside; next } !inside' README.md CHANGELOG.md docs/*.md; }
comments() { find src tests benches -name '*.rs' -exec sed -n 's|^.*//[/!]* ||p' {} +; }
code() {
    find src tests benches -name '*.rs' -exec sed 's|//.*||' {} +
    find include c_tests examples bench demo packaging tools .cargo -type f ! -name '*.gz' -exec cat {} +
    cat Makefile Cargo.toml build.rs cbindgen.toml unimem.map src/c_api/*.c src/os/*.[ch] man/unimem.3.in
}
files() { find . \( -path ./.git -o -path ./target -o -path "./$B" -o -path ./vendor \) -prune -o -type f -print; }
# none FILE: whether it is empty; else the test shows it.
none() { cat "$1" && [ ! -s "$1" ]; }

B=$1
files >"$D/files"
# Files: the end of some path. Not those of others, of readers, and of the project that this one replaces.
{ prose; comments; } | grep -oE '[A-Za-z0-9_./*-]*[A-Za-z0-9_*]\.(rs|c|h|hpp|cpp|sh|md|py|toml|mk|map)\b' | sort -u |
    grep -vxE 'program\.c|linux/userfaultfd\.h|(.*\.\./)?.*\*.*' |
    while read -r name; do grep -q "/${name##*../}\$" "$D/files" || echo "$name"; done >"$D/missing"
try "files that documents and comments name" none "$D/missing"

# Words in backquotes: names in the code, or parts of names of files. Not what others call so.
{ code; cat "$D/files"; } | grep -oE '[A-Za-z_][A-Za-z_0-9]*' | sort -u >"$D/words"
# shellcheck disable=SC2016  # backquotes of the documents
{ prose; comments; } | grep -oE '`[^`]+`' | grep -v '\.\.\.`$' | grep -oE '[A-Za-z_][A-Za-z_0-9]{2,}' | sort -u |
    comm -23 - "$D/words" | grep -vxE '_release|_prefetch|_size|_count|max_align_t|available_idle_cpu' >"$D/missing"
try "names that they have in backquotes" none "$D/missing"

# At the top: what somebody tried out there is easily committed.
git ls-files 2>"$D/log" | grep -v / |
    grep -vxE '\.gitignore|[A-Z-]*\.md|LICENSE-(APACHE|MIT)|Makefile|build\.rs|unimem\.map|(Cargo|cbindgen|rustfmt)\.toml|Cargo\.lock' >"$D/missing"
try "files that do not belong at the top" none "$D/missing"

# Goals of make.
prose | grep -oE '`make [a-z0-9-]+' | sed 's/^`make //' | sort -u |
    while read -r goal; do grep -qE "^([a-z0-9-]+ )*$goal( [a-z0-9-]+)*:" Makefile ./*/*.mk || echo "make $goal"; done >"$D/missing"
try "goals of make that they name" none "$D/missing"

# Variables of the environment that the library reads, all of them described. Tests have others.
find src -name '*.rs' ! -path 'src/bin/*' -exec cat {} + |
    grep -oE '"UNIMEM_[A-Z_]+"' | tr -d '"' | grep -v '^UNIMEM_TEST_' | sort -u |
    while read -r name; do prose | grep -q "\b$name\b" || echo "$name"; done >"$D/missing"
try "variables of the environment are described" none "$D/missing"
finish
