#!/bin/sh
# Every example compiles as its user would compile it, runs, and finds its own result right.  examples.sh BUILD
set -u
B=$1
: "${TEST_CC:=cc}" "${MPICC:=mpicc}" "${MPIRUN:=mpirun}"
O=$B/tests/examples
mkdir -p "$O" || exit 1
# shellcheck source=c_tests/try.sh
. c_tests/try.sh

# What a good example says is worth seeing too.
shown() {
    try "$@" && sed 's/^/# /' "$D/log"
}
# built COMPILER SOURCE
built() {
    $1 -std=c11 -Wall -Wextra -Werror -pedantic -O2 -g -Iinclude "$2" -o "$O/$(basename "$2" .c)" \
        -L"$B" -lunimem -Wl,-rpath,"$(realpath "$B")" -pthread -lm
}
built_and_run() {
    built "$TEST_CC" "$1" && "$O/$(basename "$1" .c)"
}
# Four ranks, whoever runs the tests and however few processors there are (Open MPI 4 and 5; others need nothing).
on_four_ranks() {
    built "$MPICC" "$1" &&
        env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
            PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe \
            "$MPIRUN" -n 4 "$O/$(basename "$1" .c)" 256 8
}

for source in examples/*.c; do
    name=$(basename "$source")
    case $name in
    mpi_*)
        if ! command -v "$MPICC" >/dev/null || ! command -v "$MPIRUN" >/dev/null; then
            skip "$name" "there is no MPI (Debian: openmpi-bin, libopenmpi-dev)"
        else
            shown "$name on 4 ranks" on_four_ranks "$source"
        fi
        ;;
    *) shown "$name" built_and_run "$source" ;;
    esac
done
finish
