#!/bin/sh
# Makes BUILD/unimem-VERSION.tar.gz: the files under version control and the crates they need.  dist.sh BUILD VERSION
set -eu
B=$1 name=unimem-$2
: "${CARGO:=cargo}"
if ! git rev-parse --git-dir >/dev/null 2>&1; then
    echo "make dist: not a git checkout, so it is not known which files belong to it" >&2
    exit 1
fi
mkdir -p "$B"
D=$(mktemp -d "$B/dist.XXXXXX")
trap 'rm -rf "$D"' EXIT
mkdir "$D/$name"
git ls-files -z | tar --null --files-from=- -cf - | tar -C "$D/$name" -xf -
$CARGO vendor --quiet --locked "$D/$name/vendor" >/dev/null
cat >>"$D/$name/.cargo/config.toml" <<'TOML'

[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "vendor"
[net]
offline = true
TOML
# The same bytes each time: the order, owners and time of the files do not depend on who makes it.
tar -C "$D" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -cf - "$name" |
    gzip -n >"$D/archive"
mv "$D/archive" "$B/$name.tar.gz"
echo "made $B/$name.tar.gz"
