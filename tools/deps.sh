#!/bin/sh
# Says which programs are missing for a target of the Makefile and installs them (Debian, Ubuntu).
#   deps.sh demo   what building and running needs
#   deps.sh test   and what widens the tests; without those they say SKIP
# Does nothing, quickly and without network, when nothing is missing.
set -eu

missing=
wanted=
have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || missing="$missing $2"; }
want() { have "$1" || wanted="$wanted $2"; }

if ! have cargo; then
    echo "deps: cargo is missing, and Debian's is too old: see https://rustup.rs" >&2
    exit 1
fi
need "${CC:-cc}" gcc
need ld binutils
need objcopy binutils
# The NUMA topology comes through it; without it the library asks sysfs.
[ -n "$(find /usr/lib /lib /usr/local/lib -name 'libhwloc.so.15' 2>/dev/null | head -n 1)" ] ||
    wanted="$wanted libhwloc15"
if [ "${1:-test}" = test ]; then
    want "${CXX:-c++}" g++
    want pkg-config pkg-config
    want cmake cmake
    want valgrind valgrind
    want abidiff abigail-tools
    want dpkg-shlibdeps dpkg-dev
fi
if [ -z "$missing$wanted" ]; then
    exit 0
fi

as_root=
if [ "$(id -u)" != 0 ]; then
    as_root="sudo -n"
fi
install() {
    have apt-get || return 1
    echo "deps: installing$*"
    # shellcheck disable=SC2086,SC2048  # both are lists of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $* >/dev/null 2>&1 && return
    # shellcheck disable=SC2086,SC2048
    $as_root apt-get update -qq >/dev/null 2>&1 &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $* >/dev/null
}
if [ -n "$wanted" ] && ! install "$wanted"; then
    echo "deps: could not install$wanted; what needs them is skipped"
fi
if [ -n "$missing" ] && ! install "$missing"; then
    echo "deps: could not install$missing, which the build needs" >&2
    exit 1
fi
