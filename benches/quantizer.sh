#!/bin/sh
# Our quantizer beside scikit-learn, SciPy, FAISS and kiddo, on the same packets: benches/quantizer.sh FLOWS [K] [N]
# FLOWS is a flow table (Parquet). PYTHON names an interpreter with numpy, scipy, scikit-learn, faiss-cpu, pyarrow and
# safetensors. All encode on one core. What whole fits of the peers come to is told by quantizer_peers.py.
set -eu
flows=${1:?usage: benches/quantizer.sh FLOWS [K] [N]}
k=${2:-9902}
n=${3:-10000000}
python=${PYTHON:-python3}
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo run --quiet --release --features train -- quantizer fit "$flows" -k "$k" -o "$work/q.safetensors" --quiet
cargo bench --quiet --features train --bench exactness -- "$work/q.safetensors" "$flows" "$n"
cargo bench --quiet --features train --bench quantizer -- "$work/q.safetensors" "$flows" "$n"
"$python" "$here/quantizer.py" "$work/q.safetensors" "$flows" "$n" "$work"
# With every instruction that this processor has, which our library finds by itself.
RUSTFLAGS="-C target-cpu=native" cargo run --quiet --release --manifest-path "$here/kiddo/Cargo.toml" \
    --target-dir "$work/target" -- "$work/centroids" "$work/points"
