#!/usr/bin/env bash
# How examples/models/protocols.tgpt was made: from labelled flows of 19 protocols, a pool of unlabelled ones, and the
# captures in ../captures.
#
#   examples/models/train.sh LABELLED.parquet POOL.parquet WORK
#
# WORK gets the intermediate files and the bundle, WORK/protocols.tgpt. Needs `trafficgpt` on the PATH (or TRAFFICGPT naming
# it), and python3 with pandas and pyarrow (or PYTHON naming one). The test split is never read.
set -euo pipefail

[ $# -eq 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
labelled=$1 pool=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
tgpt=${TRAFFICGPT:-trafficgpt}
threads=${THREADS:-0}
mkdir -p "$work"

# Whatever the model will be judged by leaves the pool, and so does a corpus that states no licence.
"${PYTHON:-python3}" "$here/pool.py" "$pool" "$labelled" "$work/pool.parquet" --exclude-corpus tj-oconnor+IoT-Dataset

"$tgpt" quantizer fit "$labelled" "$work/pool.parquet" -k 2048 --scaler log1p-us-fine -o "$work/quantizer.safetensors"

"$tgpt" pretrain "$labelled" --unlabelled "$work/pool.parquet" --quantizer "$work/quantizer.safetensors" \
    --with-classes --epochs 16 --lr 2e-3 --warmup 100 --batch-tokens 2048 --weight-decay 0.05 --dropout 0.1 \
    --smooth-embeddings 0.8 --time-jitter 0.3 --size-jitter 0.05 --header-shift 0.1 --packet-loss 0.02 --late-start 0.05 \
    --patience 0 --choose last --threads "$threads" -o "$work/lm"

# Our captures of one protocol each; the mixed one judges, and the model is not to know NTP.
mkdir -p "$work/own"
cp "$here"/../captures/*.pcap.gz "$work/own/"
rm -f "$work/own/mixed.pcap.gz" "$work/own/NTP.pcap.gz"
"$tgpt" meter "$work/own" --label-from filename --split train -o "$work/own.parquet"

tune=(--epochs 12 --lr 1e-3 --schedule cosine --warmup 60 --batch-tokens 512 --weight-decay 0.05 --dropout 0.2
    --class-weights sqrt --lm-weight 0.3 --time-jitter 0.5 --size-jitter 0.1 --header-shift 0.2 --packet-loss 0.05
    --late-start 0.1 --forest-trees 100 --seed 1 --patience 0 --choose last --threads "$threads")
"$tgpt" finetune "$labelled" "$work/own.parquet" --from "$work/lm" --label-smoothing 0.05 "${tune[@]}" -o "$work/teaching"
"$tgpt" bundle "$work/teaching" -o "$work/teacher.tgpt"

# A student of that model, which also learns what it says of flows that nobody has labelled.
"${PYTHON:-python3}" "$here/pool.py" "$pool" "$labelled" "$work/taught.parquet" --exclude-corpus tj-oconnor+IoT-Dataset \
    --strict --sample 6000
"$tgpt" finetune "$labelled" "$work/own.parquet" --from "$work/lm" --unlabelled "$work/taught.parquet" \
    --teacher "$work/teacher.tgpt" --teacher-weight 0.5 "${tune[@]}" -o "$work/classifier"

"$tgpt" bundle "$work/classifier" -o "$work/protocols.tgpt"
"$tgpt" evaluate "$work/protocols.tgpt" "$labelled" --split val
"$tgpt" meter "$here/../captures/mixed.pcap.gz" --labels "$here/../captures/labels.csv" -o "$work/mixed.parquet"
"$tgpt" evaluate "$work/protocols.tgpt" "$work/mixed.parquet" --split all
