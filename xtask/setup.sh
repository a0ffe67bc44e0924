#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks.
# Debian and Ubuntu; asks for root by sudo only if something is missing.
# Arguments: packages to install besides.
set -euo pipefail

# Program, and the package that has it. The C++ compiler, cmake, clang and git
# are for the BoringSSL provider, which CI compiles.
needed=(
    cc:build-essential c++:build-essential make:make nft:nftables
    cmake:cmake git:git clang:clang
)

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
