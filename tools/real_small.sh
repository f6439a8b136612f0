#!/usr/bin/env bash
# The runs of docs/real-small.md: `tools/real_small.sh COCO` in an empty folder.
# COCO is a folder of photographs in COCO's form: images/, instances.json, captions.json.
set -euo pipefail
coco=${1:?COCO: a folder with images/, instances.json and captions.json}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# One assistant: DATA (a folder with train/ and held_out/), then settings of the recipe.
teach() {
    local data=$1
    shift
    laterna synthesize --annotations "$data/train" --out "$data/captions.json" --kinds caption
    laterna synthesize --annotations "$data/train" --out "$data/instructions.json" \
        --kinds conversation --conversation-boxes
    python "$tools/word_connector.py" smollm2-135m "$data/captions.json" "$data/train/images" \
        "$data/words.safetensors"
    laterna train smollm2-135m --out "runs/$data" --start "$data/words.safetensors" \
        --align.data "$data/captions.json" --align.pictures "$data/train/images" \
        --instruct.data "$data/instructions.json" --instruct.pictures "$data/train/images" "$@"
}

# DATA, then the task and its settings.
ask() {
    local data=$1
    shift
    laterna evaluate "runs/$data/instruct" --before "runs/$data/align" --data "$data/held_out" \
        --out "runs/$data/figures.json" --answers "runs/$data/answers.jsonl" "$@"
}

python "$tools/split_coco.py" "$coco" coco --held-out 16
teach coco --align.epochs 3 --instruct.epochs 3
ask coco --task boxes

laterna world world/train --pictures 1000
laterna world world/held_out --pictures 80 --start 2000
teach world --align.max-steps 200 --instruct.max-steps 100
ask world --task world --limit 240
