#!/usr/bin/env bash
# Checks and measures the kernels on a GPU:
#
#   benches/gpu.sh test           every kernel against the CPU, then under compute-sanitizer where it is installed
#   benches/gpu.sh bench [N [K]]  one table: the network (classify, generate, train); encoding, brute force and a fit of N packets
#                                 to K centroids (100 M, 16,384); the network in PyTorch, where PYTHON (python3) has torch
#   benches/gpu.sh build          makes the two programs that these run, target/gpu/checks and target/gpu/bench
#
# A machine with a GPU needs the driver (530 or later) and compute capability 8.0, neither CUDA's toolkit nor the network.
# Where it has cargo and the crates, the programs are built when they are missing or the sources have changed. For one
# that has not, run `benches/gpu.sh build` elsewhere (Linux, the same processor family, a C library not newer) and carry
# target/gpu along with the checkout: three files of less than 64 MB. A program of other sources is never run.
# The bench takes about 3 GB of the host's memory for 100 M packets, and 2 GB of the GPU's. Without a GPU both print
# `skipped: <why>` and succeed.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
built=target/gpu

# What the programs are made of, as one number.
sources() {
    find src kernels benches/gpu build.rs Cargo.toml Cargo.lock -type f | LC_ALL=C sort | xargs sha256sum |
        sha256sum | cut -d' ' -f1
}

# compile PROGRAM CARGO-ARGUMENTS...: keeps what cargo makes, stripped.
compile() {
    local program=$1
    shift
    local made
    made=$("$cargo" "$@" --no-run --message-format=json |
        sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -n 1)
    [ -n "$made" ] || { echo "gpu: cargo $* made no program" >&2; exit 1; }
    cp "$made" "$built/$program"
    strip "$built/$program" 2>/dev/null || true
}

build() {
    local now
    now=$(sources)
    mkdir -p "$built"
    rm -f "$built/sources"
    compile checks test --features train --lib
    compile bench bench --features train --bench gpu
    echo "$now" >"$built/sources"
}

# Makes sure that the programs are there and of these sources.
need() {
    if [ -x "$built/checks" ] && [ -x "$built/bench" ] && [ "$(sources)" = "$(cat "$built/sources" 2>/dev/null)" ]; then
        return
    fi
    if command -v "$cargo" >/dev/null; then
        build
    else
        echo "gpu: $built has no programs of these sources, and there is no cargo to make them: run 'benches/gpu.sh build'" \
            "where there is, and bring $built here" >&2
        exit 1
    fi
}

run_checks() { "$@" "$built/checks" cuda::on_gpu train::accelerator --show-output --test-threads=1; }

run_tests() {
    need
    local out
    out=$(run_checks env) || { echo "$out"; exit 1; }
    echo "$out" | grep -vE '^(successes:|---- .* stdout ----|    [a-z_0-9:]+)?$'
    if grep -q '^skipped: ' <<<"$out"; then
        return
    fi
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1 || true)
    if [ -z "$sanitizer" ]; then
        echo "skipped: compute-sanitizer is not installed (it comes with CUDA's toolkit)"
        return
    fi
    for tool in memcheck racecheck; do
        echo "== $tool"
        TRAFFICGPT_SMALL=1 run_checks "$sanitizer" --tool "$tool" --error-exitcode 1 | grep -E '^(test |=========)'
    done
}

set -o pipefail
case ${1:-} in
build) build ;;
test) run_tests ;;
bench)
    need
    shift
    out=$("$built/bench" "$@" | tee /dev/stderr)
    # The same weights in PyTorch, in the same run.
    if ! grep -q '^skipped: ' <<<"$out"; then
        weights=$(mktemp)
        trap 'rm -f "$weights"' EXIT
        "$built/bench" weights "$weights"
        "${PYTHON:-python3}" benches/gpu_torch.py "$weights"
    fi
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
