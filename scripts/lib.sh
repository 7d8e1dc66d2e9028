# shellcheck shell=bash
# What scripts/test and scripts/demo share. Sourced, not run.

have() { command -v "$1" >/dev/null 2>&1; }

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $1"
    shift
    local hint
    for hint in "$@"; do say "hint: $hint"; done
    exit 1
}

need_rust() {
    have cargo || die "there is no cargo" "install Rust, see https://rustup.rs"
}

# rustc links with the C compiler, and SQLite and zstd are C.
c_compiler_packages() {
    have cc || echo gcc libc6-dev
}

# Installs Debian packages as root; otherwise prints the line that does, and ends.
install_packages() {
    (($# > 0)) || return 0
    have apt-get || die "there is no apt-get to install with; missing are what Debian calls: $*"
    if ((EUID != 0)); then
        die "some programs are missing" \
            "run: sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
    fi
    say "installing: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # A PostgreSQL server package makes a cluster and starts it, unless told before; ours is made where the tests want it.
    if [[ " $* " == *" postgresql "* ]]; then
        apt-get install -yqq --no-install-recommends postgresql-common >/dev/null
        sed -Ei 's/^#?[[:space:]]*create_main_cluster[[:space:]]*=.*/create_main_cluster = false/' \
            /etc/postgresql-common/createcluster.conf
        grep -q '^create_main_cluster = false$' /etc/postgresql-common/createcluster.conf ||
            echo 'create_main_cluster = false' >>/etc/postgresql-common/createcluster.conf
    fi
    apt-get install -yqq --no-install-recommends "$@" >/dev/null
}
