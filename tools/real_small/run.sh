#!/usr/bin/env bash
# A small assistant of photographs (docs/real-small.md): `tools/real_small/run.sh DATA [SETTINGS…]`
# in a folder of its own. DATA holds train/, validation/ (or val/) and, if there is one, test/, each
# in COCO's form: images/, instances.json, captions.json. SETTINGS are those of `laterna train`,
# such as `--instruct.epochs 0.25` for a shorter run. Stopped and called again, it goes on where
# it was: what is made is not made again, and `laterna train` saves its state.
set -euo pipefail
data=$(realpath "${1:?DATA: a folder with train/, validation/ and test/, each in COCO form}")
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}
recipe=smollm2-photos
train=$data/train
mkdir -p photos

# FILE, kind: what scribe makes of the folder `train`.
scribe() { [ -e "$1" ] || laterna synthesize --annotations "$train" --out "$1" --form jsonl --kinds "$2" --conversation-boxes; }

scribe photos/captions.jsonl caption
for kind in conversation detail reasoning; do scribe photos/$kind.jsonl $kind; done
[ -e photos/instructions.jsonl ] || python -m real_small.instructions "$train" \
    photos/instructions.jsonl photos/conversation.jsonl photos/detail.jsonl photos/reasoning.jsonl \
    --further 0.7
[ -e photos/words.safetensors ] || python -m real_small.word_connector $recipe \
    photos/captions.jsonl "$train/images" photos/words.safetensors
laterna train $recipe --out runs/photos --init-from photos/words.safetensors \
    --align.images "$train/images" --instruct.images "$train/images" "$@"

# LIMIT=0 asks about all photographs.
export LIMIT=${LIMIT:-300}
for part in validation val test; do
    [ ! -d "$data/$part" ] || "$here/evaluate.sh" "$PWD/runs/photos/instruct" "$data/$part" "runs/$part"
done
