#!/bin/sh
# Training step beside PyTorch's, alternately: benches/train_step.sh [6x512] [4x128] [4x128-ragged]
# PYTHON names an interpreter that has torch.
set -eu
cd "$(dirname "$0")/.."
binary=$(cargo bench --features train --bench train_step --no-run --message-format=json |
    sed -n 's/.*"name":"train_step".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
exec "${PYTHON:-python3}" benches/train_step.py "$binary" "$@"
