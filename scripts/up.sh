#!/usr/bin/env bash
# Starts `insula up` for `make up`, so that Ctrl-C ends it in order and make
# with it.
set -euo pipefail

# On a terminal insula gets the terminal for itself (job control): Ctrl-C then
# reaches it alone, and make sees nothing but its clean end. Should this shell
# be killed, the kernel tells insula. Elsewhere insula takes our place, and
# whoever signals the whole group reaches it.
if [ -t 0 ]; then
    set -m
    if command -v setpriv >/dev/null; then
        setpriv --pdeathsig TERM "$@"
    else
        "$@"
    fi
else
    exec "$@"
fi
