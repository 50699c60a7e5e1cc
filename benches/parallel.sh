#!/bin/sh
# Tokens a second of a pretraining by one process with 2 threads and by two with 1 each, alternately: the 4x128 network on the
# flows of a table.
#
#   cargo build --release --features train && benches/parallel.sh FLOWS QUANTIZER [STEPS [ROUNDS]]
set -eu
flows=$1 quantizer=$2 steps=${3:-60} rounds=${4:-3}
trafficgpt=${TRAFFICGPT:-target/release/trafficgpt}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

# Threads of each rank, and ranks. Prints what the last interval of the run took.
run() {
    rm -rf "$place/run"
    port=$((20000 + $$ % 10000))
    for rank in $(seq $(($2 - 1)) -1 0); do
        RANK=$rank WORLD_SIZE=$2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$trafficgpt" pretrain "$flows" --quantizer "$quantizer" \
            --preset edge --batch-tokens 8192 --steps "$steps" --epochs 1000 --eval-every 1000000 --log-every $((steps / 2)) \
            --threads "$1" -o "$place/run" --quiet &
    done
    wait
    rate=$(sed -n 's/.*"tokens_per_s":\([0-9]*\).*/\1/p' "$place/run/metrics.jsonl" | sed -n 2p)
    echo "$2 ranks x $1 threads: $rate tokens/s"
}

echo "load: $(cut -d' ' -f1-3 /proc/loadavg)"
for _ in $(seq "$rounds"); do
    run 2 1
    run 1 2
done
echo "load: $(cut -d' ' -f1-3 /proc/loadavg)"
