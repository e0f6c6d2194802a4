#!/bin/sh
# Search three rates of a recipe (100 steps each, the lowest dev cross-entropy wins), then three seeds of 400 steps.
#
#   experiments/laws/run.sh mezo | spsa | low-rank          about an hour on one core each
#
# What is finished is left alone, what was stopped goes on: run it again.
set -eu
recipe=$1
here=$(dirname "$0")
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
flags="--recipe $recipe --freeze embed --schedule linear --eps 2e-3 --dtype bfloat16 --batch-size 16 --check off"
flags="$flags --threads 1 --snapshot-every 0 --eval-rows 400 --quiet"

train() { # folder, flags of its own
    out=$here/$1
    shift
    if [ -f "$out/ledger.zo" ]; then
        zo train --output "$out" --resume --quiet
    else
        # shellcheck disable=SC2086  # the flags are words
        zo train $flags "$@" --output "$out"
    fi
    rm -rf "$out/model" "$out/report.html"
}

for lr in 2e-5 4e-5 8e-5; do
    train "$recipe-lr$lr" --seed 100 --steps 100 --lr $lr --test-rows 1
done
best=$(python3 - "$here" "$recipe" <<'PYTHON'
import json, pathlib, sys

def loss(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").open())
    return [row["loss"] for row in rows if row["kind"] == "eval" and row["split"] == "dev"][-1]

folders = pathlib.Path(sys.argv[1]).glob(sys.argv[2] + "-lr*")
print(min(folders, key=loss).name.partition("-lr")[2])
PYTHON
)
for seed in 0 1 2; do
    train "$recipe-seed$seed" --seed $seed --steps 400 --lr "$best" --eval-every 200
done
