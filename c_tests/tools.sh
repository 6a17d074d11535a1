#!/bin/sh
# What the tools of the Makefile say.  tools.sh
set -u
# shellcheck source=c_tests/try.sh
. c_tests/try.sh

oldest=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)

# cargo VERSION: a cargo that has it, and that builds nothing.
cargo() {
    # shellcheck disable=SC2016  # for the script that this writes
    printf '#!/bin/sh\n[ "$1" != --version ] || echo "cargo %s (0123abc 2020-01-01)"\n[ "$1" = --version ]\n' "$1" >"$D/cargo"
    chmod +x "$D/cargo"
}
# told TIMES: whether make fails, and says so often which Rust it needs.
told() {
    "${MAKE:-make}" -s CARGO="$D/cargo" CARGO_TARGET_DIR="$D/target" "$D/target/release/libunimem.a" >"$D/out" 2>&1 && return 1
    cat "$D/out"
    [ "$(grep -c "needs Rust $oldest or newer" "$D/out")" = "$1" ]
}
cargo 1.63.0
try "make says which Rust it needs: with 1.63" told 1
cargo "${oldest%.*}.$((${oldest#*.} - 1)).1"
try "with one before the oldest" told 1
rm "$D/cargo"
try "with none" told 1
cargo "$oldest.0"
try "not if something else is wrong" told 0
finish
