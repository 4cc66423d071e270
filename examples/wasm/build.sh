#!/usr/bin/env bash
# Builds the example modules here and the test modules in tests/data/wasm, all of which are committed.
#
#     examples/wasm/build.sh           build
#     examples/wasm/build.sh --check   build elsewhere and say whether the committed ones are what the sources give
#
# Needs, on Debian 12: apt-get install clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32
# The same versions of these give the same bytes: no time stamps, no paths, names kept for readable traps.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tests=$(cd "$here/../../tests/data/wasm" && pwd)
clang=${CLANG:-clang-14}
flags=(--target=wasm32-wasi -O2 -std=gnu11 -Wall -Wextra -Werror "-ffile-prefix-map=$here=." -Wl,--strip-debug)

command -v "$clang" >/dev/null || {
    echo "build.sh: $clang is not installed; apt-get install clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32" >&2
    exit 1
}

build() { # SOURCE OUTPUT [MORE...]
    "$clang" "${flags[@]}" -o "$2" "$1" "${@:3}"
}

out=$here out_tests=$tests
if [[ ${1:-} == --check ]]; then
    out=$(mktemp -d) out_tests=$out
    trap 'rm -rf "$out"' EXIT
fi

build "$here/hello.c" "$out/hello.wasm" -Oz -nostartfiles
build "$here/exitcode.c" "$out/exitcode.wasm"
for name in wordcount grep lines sha256; do build "$here/$name.c" "$out/$name.wasm" "$here/tree.c"; done
build "$tests/puppet.c" "$out_tests/puppet.wasm"

if [[ ${1:-} == --check ]]; then
    for built in "$out"/*.wasm; do
        name=$(basename "$built")
        [[ -f $here/$name ]] && committed=$here/$name || committed=$tests/$name
        cmp "$built" "$committed"
    done
    echo "build.sh: the committed modules are what the sources give"
else
    "${PYTHON:-python3}" "$here/inline.py" "$here/hello.wasm" >"$here/../jobs/hello.yaml"
    ls -l "$out"/*.wasm "$out_tests"/*.wasm
fi
