#!/usr/bin/env bash
# All figures of docs/real-small.md, of one assistant on one folder of photographs in COCO's form:
# `tools/real_small/evaluate.sh MODEL FOLDER OUT`. LIMIT=300 asks so many questions of each kind
# only; DTYPE=bfloat16 halves the time on a CPU that has instructions for it.
set -euo pipefail
model=${1:?MODEL: a checkpoint} folder=$(realpath "${2:?FOLDER: photographs in COCO form}")
out=${3:?OUT: a folder to write} limit=${LIMIT:-0} dtype=${DTYPE:-float32}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"

# NAME, most questions (0: all), then the task and its settings: answers, and the controls'.
ask() {
    local name=$1 most=$2
    shift 2
    [ -e "$out/$name/report.json" ] || laterna evaluate "$model" --data "$out/questions" \
        --out "$out/$name" --limit "$most" --controls blank,shuffled --dtype "$dtype" "$@"
}

[ -e "$out/conversation.jsonl" ] || laterna synthesize --annotations "$folder" \
    --out "$out/conversation.jsonl" --form jsonl --kinds conversation --conversation-boxes
[ -e "$out/questions" ] || python -m real_small.questions "$folder" "$out/conversation.jsonl" \
    "$out/questions" --images "$limit"
ask captions "$limit" --task captions
ask pope 0 --task pope # whole pairs: as many images as the limit were drawn for them
ask gqa "$limit" --task gqa
ask detail "$limit" --task captions --setting detail
{
    echo "things named in one sentence"
    python -m real_small.named_things "$out/captions" "$folder"
    echo "things named in descriptions"
    python -m real_small.named_things "$out/detail" "$folder"
    python -m real_small.short_answers "$out/gqa" "$folder"
    python -m real_small.ranking "$model" "$folder" --limit "$limit" --dtype "$dtype"
} | tee "$out/things_and_ranks.txt"
