#!/bin/sh
# Embeddings beside PyTorch's, alternately: benches/inference.sh [embed-4x128 ...]
# PYTHON names an interpreter that has torch.
set -eu
cd "$(dirname "$0")/.."
binary=$(cargo bench --bench inference --no-run --message-format=json |
    sed -n 's/.*"name":"inference".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
exec "${PYTHON:-python3}" benches/inference.py "$binary" "$@"
