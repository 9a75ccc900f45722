#!/usr/bin/env bash
# Runs a command (`insula up`) for make, so that Ctrl-C ends it in order and
# make with it.
set -euo pipefail

# Whether we are what the terminal's keys reach (proc(5): pgrp and tpgid).
in_foreground() {
    local stat
    [ -t 0 ] && read -r stat 2>/dev/null <"/proc/$$/stat" || return 1
    # Behind the name, which may hold spaces: state ppid pgrp session tty tpgid.
    local fields
    read -r -a fields <<<"${stat##*) }"
    [ "${fields[2]}" = "${fields[5]}" ]
}

# On a terminal the command gets the terminal for itself (job control): Ctrl-C
# then reaches it alone, and make sees nothing but its clean end. Should this
# shell be killed, the kernel tells the command. Elsewhere the command takes
# our place, and whoever signals the whole group reaches it.
if in_foreground && command -v setpriv >/dev/null; then
    set -m
    setpriv --pdeathsig TERM "$@"
else
    exec "$@"
fi
