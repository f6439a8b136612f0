"""Mix what stage 2 learns: captions that are asked for, yes and no, conversations.

DATA is a folder in COCO's form, RECORDS are files of `laterna synthesize`, one kind a file. Every
image gives its captions, asked for in the same words, and one record more: in turn one of
questions with yes or no, and one of each file.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from laterna.errors import LaternaError, told
from laterna.evaluation.tasks.descriptions import IN_A_SENTENCE
from laterna.evaluation.tasks.files import SHORT
from laterna.files import write_atomically
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Scene, Turn
from laterna.scenes.annotations import stream_scenes
from real_small.presence import Asked, ask_in_pairs

WORDINGS = (
    IN_A_SENTENCE,
    IN_A_SENTENCE,
    "Describe the image in one short sentence.",
    "What does the image show? Answer in one sentence.",
)
"""How captions are asked for; the one that evaluations use is the likeliest."""
EACH = 3
"""Things that are there, that yes and no is asked of; as many that are not."""
YES_NO_SHARE = 3
"""Images whose further record is yes and no, for one image of each file."""


def instructions(
    scenes: Sequence[Scene],
    files: Sequence[Sequence[InstructionRecord]],
    *,
    seed: int,
    captions: int = 5,
    further: float = 1.0,
) -> list[InstructionRecord]:
    """Return the records of a mix: of each image so many captions at most, and for that share of
    the images a record more. The records of a file bear one image each.
    """
    rng = random.Random(seed)
    asked: dict[str, list[Asked]] = defaultdict(list)
    for one in ask_in_pairs(scenes, each=EACH, seed=seed):
        asked[one.scene.id].append(one)
    by_image = [{record.images[0]: record for record in file} for file in files]
    kinds = [None] * YES_NO_SHARE + list(by_image)
    mixed: list[InstructionRecord] = []
    for number, scene in enumerate(rng.sample(list(scenes), len(scenes))):
        told = list(captions_asked(scene, rng.choice(WORDINGS)))
        mixed += rng.sample(told, min(captions, len(told)))
        if rng.random() >= further:
            continue
        kind = kinds[number % len(kinds)]
        record = None if kind is None else kind.get(scene.image)
        if record is not None:
            mixed.append(record)
        elif asked[scene.id]:
            mixed.append(yes_and_no(asked[scene.id], rng))
    return mixed


def captions_asked(scene: Scene, question: str) -> Iterator[InstructionRecord]:
    """Yield a record for each caption of a scene, tidied: its first letter large, one full stop."""
    for number, caption in enumerate(scene.captions):
        answer = tidy(caption)
        if answer:
            yield InstructionRecord(
                id=f"{scene.id}-sentence-{number}",
                images=(scene.image,),
                turns=(
                    Turn(role="user", text=f"{DEFAULT_IMAGE_TOKEN}\n{question}"),
                    Turn(role="assistant", text=answer, loss=True),
                ),
                kind="caption",
            )


def tidy(caption: str) -> str:
    """Return a caption as a sentence: "a dog runs ." becomes "A dog runs."."""
    words = " ".join(caption.split()).replace(" ,", ",").replace(" 's", "'s")
    words = words.strip(" .\"'")
    return f"{words[0].upper()}{words[1:]}." if words else ""


def yes_and_no(asked: Sequence[Asked], rng: random.Random) -> InstructionRecord:
    """Return one chat of questions about an image, in an order by lot; the first says how short
    answers are to be."""
    turns = []
    for number, one in enumerate(rng.sample(list(asked), len(asked))):
        text = one.text if number else f"{DEFAULT_IMAGE_TOKEN}\n{one.text}{SHORT}"
        turns.append(Turn(role="user", text=text))
        turns.append(Turn(role="assistant", text="Yes" if one.there else "No", loss=True))
    scene = asked[0].scene
    return InstructionRecord(
        id=f"{scene.id}-yes-no", images=(scene.image,), turns=tuple(turns), kind="conversation"
    )


def main() -> None:
    """Read the command line, mix and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="images/, instances.json, captions.json")
    parser.add_argument("out", type=Path, help="JSON lines file to write")
    parser.add_argument("records", type=Path, nargs="+", help="files of laterna synthesize")
    parser.add_argument("--captions", type=int, default=5, help="of an image, at most")
    parser.add_argument("--further", type=float, default=1.0, help="share with another record")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    scenes = list(stream_scenes(given.data, None, [], captionless=True))
    if not scenes:
        raise LaternaError(f"{given.data}: no image with captions or boxes in it")
    files = [
        [msgspec.json.decode(line, type=InstructionRecord) for line in path.open("rb")]
        for path in given.records
    ]
    mixed = instructions(
        scenes, files, seed=given.seed, captions=given.captions, further=given.further
    )
    encoder = msgspec.json.Encoder()
    with write_atomically(given.out) as aside:
        aside.write_bytes(b"".join(encoder.encode(record) + b"\n" for record in mixed))
    counts = Counter(str(record.kind) for record in mixed)
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{len(scenes)} images: {listed}; made {given.out}")


if __name__ == "__main__":
    sys.exit(told(main))
