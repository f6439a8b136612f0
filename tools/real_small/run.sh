#!/usr/bin/env bash
# The runs of docs/real-small.md: `tools/real_small/run.sh COCO` in an empty folder.
# COCO is a folder of photographs in COCO's form: images/, instances.json, captions.json.
set -euo pipefail
coco=${1:?COCO: a folder with images/, instances.json and captions.json}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}

# One assistant: DATA (a folder with train/, and what is written here), what its first weights are
# fitted to, then settings of the recipe.
teach() {
    local data=$1 fit=$2
    shift 2
    laterna synthesize --annotations "$data/train" --out "$data/captions.json" --kinds caption
    cat "$data"/instruct-*.jsonl >"$data/instructions.jsonl"
    python -m real_small.word_connector smollm2-135m "$data/captions.json" "$data/train/images" \
        "$data/words.safetensors" --fit "$fit"
    laterna train smollm2-135m --out "runs/$data" --init-from "$data/words.safetensors" \
        --align.data "$data/captions.json" --align.images "$data/train/images" \
        --instruct.data "$data/instructions.jsonl" --instruct.images "$data/train/images" "$@"
}

# DATA, kind of records, seed, then settings of the synthesis: a part of what stage 2 learns.
instruct() {
    local data=$1 kind=$2 seed=$3
    shift 3
    laterna synthesize --annotations "$data/train" --out "$data/instruct-$kind-$seed.jsonl" \
        --form jsonl --kinds "$kind" --seed "$seed" "$@"
}

# DATA, then the task and its settings.
ask() {
    local data=$1
    shift
    laterna evaluate "runs/$data/instruct" --baseline "runs/$data/align" --data "$data/held_out" \
        --out "runs/$data/evaluation" "$@"
}

python -m real_small.split_coco "$coco" coco --held-out 16
instruct coco conversation 0 --conversation-boxes
for seed in 0 1 2; do instruct coco detail $seed; done
teach coco classes --align.connector.lr 1e-4 --instruct.connector.lr 5e-5 \
    --instruct.language.lr 1e-4 --instruct.epochs 2
python -m real_small.named_things runs/coco/instruct coco/held_out
for kind in caption detail; do
    laterna synthesize --annotations coco/held_out --out coco/held_out-$kind.json --kinds $kind
    for stage in align instruct; do
        python -m real_small.image_loss runs/coco/$stage coco/held_out-$kind.json \
            coco/held_out/images
    done
done
ask coco --task boxes

laterna world world/train --images 1000
laterna world world/held_out --images 80 --start 2000
instruct world conversation 0 --conversation-boxes
teach world captions --align.max-steps 80 --instruct.max-steps 120
ask world --task world --limit 240
