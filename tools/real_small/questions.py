"""Questions about a folder of photographs, as files of `laterna evaluate`: questions.py --help.

    OUT/pope   is there a …?, in pairs (`real_small.presence`), in POPE's form
    OUT/gqa    short answers that people's captions give, by kind, in GQA's form
    OUT/captions

Short answers are those turns of scribe's conversations that ask for one, yes and no left out.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from laterna.errors import LaternaError, told
from laterna.evaluation.tasks.pope import BUILT
from laterna.files import write_atomically
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Scene
from laterna.scenes.annotations import stream_scenes
from real_small.presence import ask_in_pairs

BRIEFLY = "Answer briefly."
KINDS = {
    "colour": re.compile(r"colou?r"),
    "doing what": re.compile(r"\b(doing|up to|busy with)\b"),
    "where": re.compile(r"^(where|in which part|in what part)\b"),
    "how many": re.compile(r"^how many\b"),
    "who or what": re.compile(r"^(who|what|which)\b"),
}
"""Kinds of question by what they ask, the first that fits."""


class ShortAnswer(NamedTuple):
    """A question with a short answer."""

    image: str
    kind: str
    question: str
    answer: str


def short_answers(records: Iterable[InstructionRecord]) -> Iterator[ShortAnswer]:
    """Yield the turns of conversations that ask for a short answer, yes and no left out."""
    for record in records:
        for asked, said in zip(record.turns[::2], record.turns[1::2], strict=False):
            text = asked.text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            if not text.endswith(BRIEFLY) or said.text.lower() in ("yes", "no"):
                continue
            question = text.removesuffix(BRIEFLY).strip()
            kind = next((one for one, rule in KINDS.items() if rule.search(question.lower())), "")
            yield ShortAnswer(record.images[0], kind or "other", question, said.text)


def pope_lines(scenes: Sequence[Scene], *, images: int, seed: int) -> list[dict[str, object]]:
    """Return the rows of a file in POPE's form about `images` scenes drawn by lot (0: all)."""
    drawn = random.Random(seed).sample(list(scenes), images) if images else list(scenes)
    return [
        {
            "question_id": number,
            "image": one.scene.image,
            "text": one.text,
            "label": "yes" if one.there else "no",
        }
        for number, one in enumerate(ask_in_pairs(drawn, each=1, seed=seed), start=1)
    ]


def write(data: Path, out: Path, records: Sequence[InstructionRecord], *, images: int) -> str:
    """Write the questions about a COCO folder, and say how many of each kind.

    `images` are drawn for yes and no; 0: all. Raises LaternaError for a folder without images.
    """
    scenes = list(stream_scenes(data, None, [], captionless=True))
    if not scenes:
        raise LaternaError(f"{data}: no image with captions or boxes in it")
    yes_no = pope_lines(scenes, images=min(images, len(scenes)), seed=0)
    short = list(short_answers(records))
    gqa = {
        f"{number}": {
            "question": one.question,
            "imageId": Path(one.image).stem,
            "answer": one.answer,
            "types": {"structural": one.kind},
        }
        for number, one in enumerate(short, start=1)
    }
    with write_atomically(out) as aside:
        for task in ("pope", "gqa", "captions"):
            (aside / task).mkdir(parents=True)
        (aside / "pope" / "images").symlink_to(data.resolve() / "images")
        (aside / "captions" / "images").symlink_to(data.resolve() / "images")
        (aside / "captions" / "captions.json").symlink_to(data.resolve() / "captions.json")
        (aside / "gqa" / "images").mkdir()
        for scene in scenes:  # GQA's images are all called .jpg; how they are packed is not asked
            link = aside / "gqa" / "images" / f"{Path(scene.image).stem}.jpg"
            link.symlink_to(data.resolve() / "images" / scene.image)
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in yes_no)
        (aside / "pope" / BUILT.format("adversarial")).write_bytes(lines)
        (aside / "gqa" / "val_balanced_questions.json").write_bytes(msgspec.json.encode(gqa))
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(o.kind for o in short).items())
    return f"{len(scenes)} images: {len(yes_no)} yes or no; {kinds}; made {out}"


def main() -> None:
    """Read the command line, make the questions and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="images/, instances.json, captions.json")
    parser.add_argument("conversations", type=Path, help="what scribe made of it")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--images", type=int, default=0, help="asked yes or no about; 0: all")
    given = parser.parse_args()
    lines = given.conversations.open("rb")
    records = [msgspec.json.decode(line, type=InstructionRecord) for line in lines]
    print(write(given.data, given.out, records, images=given.images))


if __name__ == "__main__":
    sys.exit(told(main))
