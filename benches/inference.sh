#!/bin/sh
# Embeddings beside PyTorch's and ONNX Runtime's, alternately: benches/inference.sh [2x64 4x128 6x512]
# PYTHON names an interpreter that has torch, transformers and onnxruntime.
set -eu
cd "$(dirname "$0")/.."
binary=$(cargo bench --features train --bench inference --no-run --message-format=json |
    sed -n 's/.*"name":"inference".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
exec "${PYTHON:-python3}" benches/inference.py "$binary" "$@"
