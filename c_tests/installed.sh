#!/bin/sh
# An installed tree serves pkg-config and CMake, shared and static, C and C++, and can be moved and removed; so do Debian
# packages; the source archive has all it needs.  installed.sh BUILD
set -u
B=$1
: "${TEST_CC:=cc}" "${TEST_CXX:=c++}" "${MAKE:=make}"
# shellcheck source=c_tests/try.sh
. c_tests/try.sh
STAGE=$D/stage
LIB=$STAGE/usr/lib

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
project(user C CXX)
find_package(unimem 1.0 REQUIRED)
add_executable(shared user.c)
target_link_libraries(shared unimem::unimem)
add_executable(static user.c)
target_link_libraries(static unimem::unimem_static)
add_executable(wholly_static user.c)
target_link_libraries(wholly_static unimem::unimem_static -static)
add_executable(plus_plus user.cpp)
target_compile_features(plus_plus PRIVATE cxx_std_17)
target_link_libraries(plus_plus unimem::unimem)
CMAKE

cat >"$D/user.cpp" <<'CPP'
#include <unimem.hpp>
#include <vector>
int main() {
    unimem::instance memory;
    std::vector<int, unimem::allocator<int>> numbers(1000, 1, memory);
    return memory.stats().total_allocated != 4000;
}
CPP

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
wholly_static() {
    $TEST_CC -static "$D/user.c" $(pkg_config --static --cflags --libs unimem) -o "$D/wholly_static" && "$D/wholly_static"
}
# shellcheck disable=SC2046
example() {
    $TEST_CC -std=c11 "$STAGE/usr/share/doc/unimem/examples/own_interface.c" $(pkg_config --cflags --libs unimem) \
        -Wl,-rpath,"$LIB" -o "$D/example" && "$D/example"
}
# shellcheck disable=SC2046
plus_plus() {
    $TEST_CXX -x c++ "$D/user.c" -x none $(pkg_config --cflags --libs unimem) -Wl,-rpath,"$LIB" -o "$D/plus" &&
        "$D/plus" && $TEST_CXX -std=c++17 "$D/user.cpp" $(pkg_config --cflags --libs unimem) -Wl,-rpath,"$LIB" \
        -o "$D/plus" && "$D/plus"
}
with_cmake() {
    cmake -S "$D" -B "$D/cmake" -Dunimem_DIR="$LIB/cmake/unimem" && cmake --build "$D/cmake" &&
        "$D/cmake/shared" && "$D/cmake/static" && "$D/cmake/wholly_static" && "$D/cmake/plus_plus" && ! ldd "$D/cmake/static" | grep unimem
}
nothing_left() { [ -z "$(find "$STAGE" ! -type d)" ] && [ -z "$(find "$STAGE" -name '*unimem*')" ]; }

# Links: program -> soname -> file, all beside each other.
links() {
    [ "$(readlink "$LIB/libunimem.so")" = "$(readelf -d "$LIB/libunimem.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')" ] &&
        [ -f "$LIB/$(readlink "$LIB/$(readlink "$LIB/libunimem.so")")" ]
}
licences() { [ -s "$STAGE/usr/share/doc/unimem/LICENSE-MIT" ] && [ -s "$STAGE/usr/share/doc/unimem/LICENSE-APACHE" ]; }
command_works() { "$STAGE/usr/bin/unimem" --version && "$STAGE/usr/bin/unimem" info; }
# A tree put elsewhere still serves CMake, whose files say where they are.
moved() {
    mv "$STAGE" "$D/elsewhere" && cmake -S "$D" -B "$D/cmake2" -Dunimem_DIR="$D/elsewhere/usr/lib/cmake/unimem" &&
        cmake --build "$D/cmake2" --target shared && "$D/cmake2/shared" && mv "$D/elsewhere" "$STAGE"
}
deb() {
    made=$(stat -c %y "$B/libunimem.a")
    "$MAKE" --no-print-directory deb B="$B" && set -- "$B"/deb/*.deb && [ $# = 3 ] || return 1
    [ "$made" = "$(stat -c %y "$B/libunimem.a")" ] || { echo "all was built anew"; return 1; }
    for package in "$@"; do
        dpkg-deb --info "$package" && dpkg -x "$package" "$D/debian" || return 1
    done
    dpkg-deb --info "$B"/deb/libunimem1_*.deb | grep 'Depends: libc6' &&
        dpkg-deb --info "$B"/deb/libunimem1_*.deb symbols | grep '^ unimem_open@Base'
}
# shellcheck disable=SC2046
deb_serves() {
    lib=$(dirname "$(find "$D/debian" -name libunimem.a)")
    PKG_CONFIG_SYSROOT_DIR=$D/debian PKG_CONFIG_LIBDIR=$lib/pkgconfig PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
        PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 pkg-config --cflags --libs unimem >"$D/flags" &&
        $TEST_CC "$D/user.c" $(cat "$D/flags") -Wl,-rpath,"$lib" -o "$D/packaged" && "$D/packaged" &&
        "$D/debian/usr/bin/unimem" --version
}
# Nothing but the archive is needed: Cargo finds every crate in it, with an empty home and no network.
dist() {
    "$MAKE" --no-print-directory dist B="$B" && tar -C "$D" -xzf "$B"/unimem-*.tar.gz && mkdir "$D/home" || return 1
    (cd "$D"/unimem-* && CARGO_HOME=$D/home CARGO_NET_OFFLINE=true ${CARGO:-cargo} metadata --locked --format-version 1 >"$D/metadata" &&
        [ ! -e "$D/home/registry" ] && cmp Cargo.lock "$OLDPWD/Cargo.lock")
}

# As under sudo, whose PATH has no cargo of the user's.
install_without_cargo() {
    "$MAKE" --no-print-directory install B="$B" CARGO="$D/no-cargo" DESTDIR="$D/other" PREFIX=/usr && "$D/other/usr/bin/unimem" --version
}

try "install" "$MAKE" --no-print-directory install B="$B" DESTDIR="$STAGE" PREFIX=/usr
try "install what is built where there is no cargo" install_without_cargo
if command -v pkg-config >/dev/null; then
    try "pkg-config, shared" shared
    try "pkg-config tells the version" version
    try "pkg-config, static" static
    try "pkg-config, wholly static" wholly_static
    try "pkg-config, C++" plus_plus
    try "pkg-config, an installed example" example
else
    skip "pkg-config" "there is no pkg-config"
fi
if command -v cmake >/dev/null; then
    try "cmake, shared, static and C++" with_cmake
    try "cmake, the tree moved" moved
else
    skip "cmake" "there is no cmake"
fi
if command -v man >/dev/null; then
    for page in man1/unimem.1 man3/unimem.3; do
        warns() { man --warnings -l "$STAGE/usr/share/man/$1" 2>&1 >/dev/null | grep .; }
        sound() { man -l "$STAGE/usr/share/man/$page" && ! warns "$page"; }
        try "manual page $page" sound
    done
else
    skip "man page" "there is no man"
fi
try "links" links
try "licences" licences
try "the installed command" command_works
if ! command -v dpkg-shlibdeps >/dev/null; then
    skip "Debian packages" "there is no dpkg-shlibdeps"
else
    try "Debian packages" deb
    if command -v pkg-config >/dev/null; then try "Debian packages serve a consumer" deb_serves; fi
fi
if git rev-parse --git-dir >/dev/null 2>&1; then
    try "source archive" dist
else
    skip "source archive" "not a git checkout"
fi
try "uninstall" "$MAKE" --no-print-directory uninstall B="$B" DESTDIR="$STAGE" PREFIX=/usr
try "uninstall leaves nothing" nothing_left
uninstall_again() {
    mkdir -p "$STAGE/usr/include/unimem" && touch "$STAGE/usr/include/unimem/other.h" &&
        "$MAKE" --no-print-directory uninstall B="$B" DESTDIR="$STAGE" PREFIX=/usr && [ -e "$STAGE/usr/include/unimem/other.h" ]
}
try "uninstall with nothing to do, beside files of others" uninstall_again
finish
