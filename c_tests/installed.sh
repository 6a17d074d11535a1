#!/bin/sh
# An installed tree serves pkg-config and CMake, shared and static, and can be removed.  installed.sh BUILD
set -u
B=$1
: "${TEST_CC:=cc}" "${TEST_CXX:=c++}" "${MAKE:=make}"
D=$(mktemp -d) || exit 1
trap 'rm -rf "$D"' EXIT
n=0 failures=0
STAGE=$D/stage
LIB=$STAGE/usr/lib

# try NAME COMMAND...: one test.
try() {
    n=$((n + 1)) name=$1
    shift
    if "$@" >"$D/log" 2>&1; then
        echo "ok $n - $name"
    else
        failures=$((failures + 1))
        echo "not ok $n - $name"
        sed 's/^/# /' "$D/log"
    fi
}
skip() {
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}

cat >"$D/user.c" <<'C'
#include <stdio.h>
#include <unimem.h>
#include <unimem/memory_pool.h>
int main(void) {
    unified_memory_interface_t *memory = unimem_global();
    void *block = memory ? memory->allocate(100, 0) : NULL;
    if (!block || !unimem_owns(block))
        return 1;
    memory->free(block);
    return puts(unimem_version()) < 0;
}
C
cat >"$D/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.13)
project(user C)
find_package(unimem 1.0 REQUIRED)
add_executable(shared user.c)
target_link_libraries(shared unimem::unimem)
add_executable(static user.c)
target_link_libraries(static unimem::unimem_static)
CMAKE

pkg_config() {
    PKG_CONFIG_SYSROOT_DIR=$STAGE PKG_CONFIG_LIBDIR=$LIB/pkgconfig PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
        PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 pkg-config "$@"
}
version() { [ "$(pkg_config --modversion unimem)" = "$("$D/shared")" ]; }
# shellcheck disable=SC2046  # lists of words
shared() { $TEST_CC "$D/user.c" $(pkg_config --cflags --libs unimem) -Wl,-rpath,"$LIB" -o "$D/shared" && "$D/shared"; }
# shellcheck disable=SC2046
static() {
    $TEST_CC "$D/user.c" $(pkg_config --cflags unimem) "$LIB/libunimem.a" \
        $(pkg_config --static --libs unimem | sed 's/-lunimem//') -o "$D/static" && "$D/static" &&
        ! ldd "$D/static" | grep unimem
}
# shellcheck disable=SC2046
plus_plus() {
    $TEST_CXX -x c++ "$D/user.c" -x none $(pkg_config --cflags --libs unimem) -Wl,-rpath,"$LIB" -o "$D/plus" && "$D/plus"
}
with_cmake() {
    cmake -S "$D" -B "$D/cmake" -Dunimem_DIR="$LIB/cmake/unimem" && cmake --build "$D/cmake" &&
        "$D/cmake/shared" && "$D/cmake/static" && ! ldd "$D/cmake/static" | grep unimem
}
nothing_left() { [ -z "$(find "$STAGE" ! -type d)" ] && [ -z "$(find "$STAGE" -name '*unimem*')" ]; }

try "install" "$MAKE" --no-print-directory install B="$B" DESTDIR="$STAGE" PREFIX=/usr
if command -v pkg-config >/dev/null; then
    try "pkg-config, shared" shared
    try "pkg-config tells the version" version
    try "pkg-config, static" static
    try "pkg-config, C++" plus_plus
else
    skip "pkg-config" "there is no pkg-config"
fi
if command -v cmake >/dev/null; then
    try "cmake, shared and static" with_cmake
else
    skip "cmake" "there is no cmake"
fi
if command -v man >/dev/null; then
    try "man page" man --warnings -l "$STAGE/usr/share/man/man3/unimem.3"
else
    skip "man page" "there is no man"
fi
try "uninstall" "$MAKE" --no-print-directory uninstall B="$B" DESTDIR="$STAGE" PREFIX=/usr
try "uninstall leaves nothing" nothing_left
echo "1..$n"
[ $failures = 0 ]
