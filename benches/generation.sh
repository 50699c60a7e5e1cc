#!/bin/sh
# Generation beside transformers and ONNX Runtime, alternately: benches/generation.sh [shipped 4x128 6x512] [--threads N]
# PYTHON names an interpreter that has torch, transformers, onnx and onnxruntime.
set -eu
cd "$(dirname "$0")/.."
binary=$(cargo bench --features train --bench generation --no-run --message-format=json |
    sed -n 's/.*"name":"generation".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
exec "${PYTHON:-python3}" benches/generation.py "$binary" "$@"
