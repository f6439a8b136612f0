#!/usr/bin/env bash
# All figures of docs/real-small.md, of one assistant on one folder of photographs in COCO's form:
# `tools/real_small/evaluate.sh MODEL FOLDER OUT`. LIMIT=300 asks about so many photographs only.
set -euo pipefail
model=${1:?MODEL: a checkpoint} folder=$(realpath "${2:?FOLDER: photographs in COCO form}")
out=${3:?OUT: a folder to write} limit=${LIMIT:-0}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"

# NAME, then the task and its settings: answers, and those of the controls.
ask() {
    local name=$1
    shift
    [ -e "$out/$name/report.json" ] || laterna evaluate "$model" --data "$out/questions" \
        --out "$out/$name" --limit "$limit" --controls blank,shuffled --dtype "${DTYPE:-float32}" "$@"
}

[ -e "$out/conversation.jsonl" ] || laterna synthesize --annotations "$folder" \
    --out "$out/conversation.jsonl" --form jsonl --kinds conversation --conversation-boxes
[ -e "$out/questions" ] || python -m real_small.questions "$folder" "$out/conversation.jsonl" \
    "$out/questions" --images "$limit"
ask captions --task captions
ask detail --task captions --setting detail
ask pope --task pope
ask gqa --task gqa
{
    echo "things named in one sentence"
    python -m real_small.named_things "$out/captions" "$folder"
    echo "things named in descriptions"
    python -m real_small.named_things "$out/detail" "$folder"
    python -m real_small.ranking "$model" "$folder" --limit "$limit"
} | tee "$out/things_and_ranks.txt"
