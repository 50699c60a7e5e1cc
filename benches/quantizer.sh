#!/bin/sh
# Our quantizer beside scikit-learn and SciPy, on the same packets: benches/quantizer.sh FLOWS [K] [N]
# FLOWS is a flow table (Parquet). PYTHON names an interpreter with numpy, scipy, scikit-learn, pyarrow and safetensors.
set -eu
flows=${1:?usage: benches/quantizer.sh FLOWS [K] [N]}
k=${2:-9902}
n=${3:-10000000}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo run --quiet --release --features train -- quantizer fit "$flows" -k "$k" -o "$work/q.safetensors" --quiet
cargo bench --quiet --features train --bench quantizer -- "$work/q.safetensors" "$flows" "$n"
"$python" "$(dirname "$0")/quantizer.py" "$work/q.safetensors" "$flows" "$n"
