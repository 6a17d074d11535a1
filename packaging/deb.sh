#!/bin/sh
# Makes Debian packages in BUILD/deb with dpkg's own tools.  deb.sh BUILD VERSION SOVERSION
#   libunimem1     the shared library           libunimem-dev  headers, static library, pkg-config, CMake, manual
#   unimem         the command and the library it preloads
set -eu
B=$1 version=$2 so=$3
: "${MAKE:=make}" "${CC:=cc}"
for tool in dpkg-deb dpkg-shlibdeps dpkg-architecture; do
    command -v $tool >/dev/null || { echo "make deb: there is no $tool (Debian's dpkg-dev)" >&2; exit 1; }
done
# These tools belong to the compiler's machine, as dpkg-architecture sees to by itself: a CC that was chosen is in the environment.
# It may not come there now, as Cargo would build everything anew for it.
strip=$($CC -print-prog-name=strip)
libraries=$(dirname "$($CC -print-file-name=libc.so.6)")
machine=$(dpkg-architecture -qDEB_HOST_ARCH)
lib=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
rm -rf "$B/deb"
mkdir -p "$B/deb/debian"
D=$B/deb/tree
runtime=$B/deb/libunimem$so development=$B/deb/libunimem-dev command=$B/deb/unimem
$MAKE --no-print-directory install B="$B" DESTDIR="$D" PREFIX=/usr LIBDIR="$lib" DOCDIR=/usr/share/doc/libunimem-dev >/dev/null

# take PACKAGE PATH...: moves files from the installed tree.
take() {
    package=$1
    shift
    for file in "$@"; do
        mkdir -p "$package$(dirname "$file")"
        mv "$D$file" "$package$file"
    done
}
take "$runtime" "$lib/libunimem.so.$version" "$lib/libunimem.so.$so"
take "$command" /usr/bin/unimem /usr/share/man/man1/unimem.1
[ ! -e "$D$lib/libunimem-malloc.so" ] || take "$command" "$lib/libunimem-malloc.so"
mv "$D" "$development"
"$strip" --strip-unneeded "$runtime$lib/libunimem.so.$version"
"$strip" "$command/usr/bin/unimem"
find "$command" "$development" -path '*/man/*' -type f -exec gzip -9n {} +

# What other packages that link the library depend on. All names are weak only in the static library.
mkdir -p "$runtime/DEBIAN" "$development/DEBIAN" "$command/DEBIAN"
echo "libunimem $so libunimem$so (>= $version)" >"$runtime/DEBIAN/shlibs"
{
    echo "libunimem.so.$so libunimem$so #MINVER#"
    sed "s/.*/ &@Base $version/" "$B/names"
} >"$runtime/DEBIAN/symbols"
echo "activate-noawait ldconfig" >"$runtime/DEBIAN/triggers"

# needs FILE...: the packages that the programs' shared libraries come from. What this machine has of another's is in packages
# of other names.
needs() {
    (cd "$B/deb" && printf 'Source: unimem\n\nPackage: unimem\nArchitecture: any\n' >debian/control &&
        dpkg-shlibdeps "-l$libraries" -O "$@" 2>/dev/null) | sed -n "s/:$machine//g; s/-$machine-cross//g; s/^shlibs:Depends=//p"
}
# package DIRECTORY SECTION DEPENDS SUMMARY TEXT
package() {
    name=$(basename "$1")
    documents=$1/usr/share/doc/$name
    mkdir -p "$documents"
    {
        echo "Copyright: 2026 the libunimem maintainers"
        echo "License: MIT or Apache-2.0, at your option. On Debian, Apache-2.0 is in /usr/share/common-licenses/Apache-2.0."
        echo
        cat LICENSE-MIT
    } >"$documents/copyright"
    (cd "$1" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$1/DEBIAN/md5sums"
    cat >"$1/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $machine
Maintainer: libunimem maintainers <maintainers@libunimem.invalid>
Installed-Size: $(du -sk --exclude=DEBIAN "$1" | cut -f 1)
Depends: $3
Section: $2
Priority: optional
Multi-Arch: $([ "$2" = libs ] && echo same || echo no)
Description: $4
 $5
CONTROL
    dpkg-deb -Zxz -z1 --root-owner-group --build "$1" "$B/deb/${name}_${version}_$machine.deb" >/dev/null
    rm -rf "$1"
    echo "made $B/deb/${name}_${version}_$machine.deb"
}
package "$runtime" libs "$(needs "libunimem$so$lib/libunimem.so.$version")" \
    "memory system for tensor-network programs" \
    "A checked heap, tiered memory larger than RAM, and tree tensor networks, with a C interface."
package "$development" libdevel "libunimem$so (= $version)" \
    "memory system for tensor-network programs (development)" \
    "Headers for C and C++, the static library, pkg-config and CMake files, and manuals."
programs=unimem/usr/bin/unimem
[ ! -e "$command$lib/libunimem-malloc.so" ] || programs="$programs unimem$lib/libunimem-malloc.so"
# shellcheck disable=SC2086  # a list of words
package "$command" utils "$(needs $programs)" \
    "looks at memory, and runs programs on the libunimem heap" \
    "The unimem command tells about the machine's memory, runs and checks programs, and makes reports of recordings."
rm -rf "$B/deb/debian"
