#!/usr/bin/env bash
# Installs what is missing to build and run Insula (`deps.sh run`), to test it
# too (`deps.sh test`), with emulators of AWS (`deps.sh aws`), or to measure it
# beside PgBouncer, pgcopydb and etcd (`deps.sh bench`). What is there is left
# alone, quietly and quickly. Where it cannot install, it names the packages and exits with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly OLDEST_POSTGRES=15
readonly NEXTEST_VERSION=0.9.143
readonly DENY_VERSION=0.20.2

say() { echo "deps: $*"; }
fail() { echo "deps: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Whether PostgreSQL's server programs are there, in a version that is new enough.
have_postgres() {
    local folder major
    for folder in ${INSULA_PG_BIN:+"$INSULA_PG_BIN"} /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        "$(dirname "$(command -v postgres 2>/dev/null || echo /none)")"; do
        if [ ! -x "$folder/postgres" ] || [ ! -x "$folder/initdb" ]; then continue; fi
        major=$("$folder/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
        if [ "$major" -ge "$OLDEST_POSTGRES" ]; then return 0; fi
    done
    return 1
}

# PgBouncer, which the front is compared with. Debian's is not in everybody's PATH.
have_pgbouncer() { have pgbouncer || [ -x /usr/sbin/pgbouncer ]; }

# bindgen (for PostgreSQL's own SQL parser) loads libclang when Insula is built;
# libclang-cpp, which other packages bring along, is another library.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null ||
        compgen -G '/opt/homebrew/opt/llvm*/lib/libclang.dylib' >/dev/null || [ "$(uname)" = Darwin ]
}

# A Java that runs a source file, and PostgreSQL's driver for it.
have_jdbc() { have javac && [ -e /usr/share/java/postgresql.jar ]; }

# Whether a virtual environment can be made with this Python.
have_venv() { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ] && [ "${CI:-}" != true ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# apt-get without a question and without a word, unless it fails.
apt() {
    local log code=0
    log=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 -qq "$@" </dev/null >"$log" 2>&1 || code=$?
    if [ "$code" -ne 0 ]; then tail -n 20 "$log" >&2; fi
    rm -f "$log"
    return "$code"
}

# Debian's package `postgresql` makes and starts a server on port 5432. We want
# the programs alone, so that is switched off for as long as the package is
# being installed, and only where its base is installed by us in the first place.
install_postgres() {
    local switch=/etc/postgresql-common/createcluster.conf
    if [ -e /usr/share/postgresql-common ]; then
        apt install --yes --no-install-recommends postgresql
        return
    fi
    apt install --yes --no-install-recommends postgresql-common
    as_root cp -p "$switch" "$switch.insula"
    echo 'create_main_cluster = false' | as_root tee -a "$switch" >/dev/null
    local code=0
    apt install --yes --no-install-recommends postgresql || code=$?
    as_root mv "$switch.insula" "$switch"
    return "$code"
}

# Debian's package starts one on port 6432, which nobody here wants.
install_pgbouncer() {
    apt install --yes --no-install-recommends pgbouncer || return
    if have systemctl; then as_root systemctl disable --quiet --now pgbouncer || true; fi
}

# etcd's server and its tool, which keeps values of the configuration.
have_etcd() { have etcd && have etcdctl; }

# Debian's package starts one on port 2379, which nobody here wants. It starts
# at once unless the policy says no, and stays away from then on.
install_etcd() {
    local policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        apt install --yes --no-install-recommends etcd-server etcd-client || return
    else
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        local code=0
        apt install --yes --no-install-recommends etcd-server etcd-client || code=$?
        as_root rm -f "$policy"
        [ "$code" -eq 0 ] || return "$code"
    fi
    if have systemctl; then as_root systemctl disable --quiet --now etcd || true; fi
}

install_packages() {
    local missing=("$@") package
    if ! have apt-get || { [ "$(id -u)" -ne 0 ] && ! have sudo; }; then
        fail "cannot install here; please install: ${missing[*]}" \
            "(Debian and Ubuntu: apt-get install ${missing[*]}; macOS: brew install postgresql@17 llvm)"
    fi
    say "installing ${missing[*]}"
    apt update || fail "apt-get update failed; please install: ${missing[*]}"
    for package in "${missing[@]}"; do
        if [ "$package" = postgresql ]; then
            install_postgres || fail "apt-get install failed; please install: $package"
        elif [ "$package" = etcd-server ]; then
            install_etcd || fail "apt-get install failed; please install: $package etcd-client"
        elif [ "$package" = pgbouncer ]; then
            install_pgbouncer || fail "apt-get install failed; please install: $package"
        else
            apt install --yes --no-install-recommends "$package" ||
                fail "apt-get install failed; please install: $package"
        fi
    done
    have_postgres || fail "the package postgresql of this system is older than PostgreSQL $OLDEST_POSTGRES:" \
        "install postgresql-17 from https://apt.postgresql.org, or set INSULA_PG_BIN to the programs of another one"
}

# The PostgreSQL drivers for the tests, in .venv; made again when the list changes.
install_drivers() {
    local list=scripts/requirements.txt
    if [ -x .venv/bin/python ] && cmp -s "$list" .venv/requirements.txt; then
        return
    fi
    say "installing the drivers of $list into .venv"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --requirement "$list" ||
        fail "pip could not install $list into .venv"
    cp "$list" .venv/requirements.txt
}

# Emulators of AWS, in .venv-aws; made again when the list changes.
install_emulators() {
    local list=scripts/requirements-aws.txt
    if [ -x .venv-aws/bin/python ] && cmp -s "$list" .venv-aws/requirements.txt; then
        return
    fi
    say "installing the emulators of $list into .venv-aws"
    rm -rf .venv-aws
    python3 -m venv .venv-aws
    .venv-aws/bin/python -m pip install --quiet --disable-pip-version-check --no-input --requirement "$list" ||
        fail "pip could not install $list into .venv-aws"
    cp "$list" .venv-aws/requirements.txt
}

# The drivers and tools of Node for the tests, in .npm; made again when the list changes.
install_node_tools() {
    local list=scripts/package.json
    if [ -d .npm/node_modules/drizzle-orm ] && cmp -s "$list" .npm/package.json; then
        return
    fi
    say "installing the packages of $list into .npm"
    rm -rf .npm
    mkdir .npm
    cp "$list" .npm/package.json
    npm install --prefix .npm --silent --no-audit --no-fund --no-package-lock --ignore-scripts ||
        fail "npm could not install $list into .npm"
}

# A tool of cargo's, built from crates.io where it is missing.
install_cargo_tool() {
    local name=$1 version=$2
    if have "cargo-$name" || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-$name" ]; then
        return
    fi
    say "building cargo-$name $version (once, some minutes)"
    cargo install --quiet --locked "cargo-$name@$version" ||
        fail "cargo install --locked cargo-$name@$version failed"
}

main() {
    local purpose=${1:-test} missing=()
    have cargo || fail "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer"
    have_postgres || missing+=(postgresql)
    have_libclang || missing+=(libclang-dev)
    if ! have cc || ! have ar; then missing+=(build-essential); fi
    if [ "$purpose" = bench ]; then
        have_pgbouncer || missing+=(pgbouncer)
        have pgcopydb || missing+=(pgcopydb)
        have_etcd || missing+=(etcd-server)
    fi
    if [ "$purpose" = test ]; then
        have_venv || missing+=(python3 python3-venv)
        have_etcd || missing+=(etcd-server)
        have node || missing+=(nodejs)
        have npm || missing+=(npm)
        # Elsewhere the tests do without.
        if have apt-get && ! have_jdbc; then missing+=(default-jdk-headless libpostgresql-jdbc-java); fi
        if have apt-get && ! have faketime; then missing+=(faketime); fi
    fi
    if [ "$purpose" = aws ]; then have_venv || missing+=(python3 python3-venv); fi
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
    if [ "$purpose" = aws ]; then
        install_emulators
        install_cargo_tool nextest "$NEXTEST_VERSION"
    fi
    if [ "$purpose" = test ]; then
        install_drivers
        install_node_tools
        install_cargo_tool nextest "$NEXTEST_VERSION"
        install_cargo_tool deny "$DENY_VERSION"
    fi
}

main "$@"
