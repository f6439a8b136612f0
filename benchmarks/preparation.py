"""How fast records are prepared, beside a per-record path that works as LLaVA's does.

    python benchmarks/preparation.py --tokenizer FOLDER [--template NAME] [--records N]
        [--workers N] [--vocabulary N]
    python benchmarks/preparation.py --kind llama-2 --template vicuna_v1

`--tokenizer` is measured as it is; `--kind` trains one of that kind here (`kinds.py`).
With one worker everything runs in this process and its CPU time is measured, which other programs
on the machine disturb less, and the two take turns, so that these disturb both alike; with several
it is the clock, and the per-record path comes first.

Both read the same made-up two-turn records with the same tokenizer in the same run. The baseline is
a re-implementation of the idea of LLaVA's `preprocess_v1`: a chat built as a string, tokenized
whole and again turn by turn to count what is masked, in torch tensors. It checks nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from itertools import accumulate
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import msgspec
import torch
from transformers import AutoTokenizer

from kinds import KINDS, make
from laterna.data.chat import SHIPPED_TEMPLATES, load_template
from laterna.data.images.tokens import SameTokens
from laterna.data.preparation import prepare
from laterna.recipe import SourceSettings

WORDS = """a the image shows two cats sitting on wooden table beside red bottle and small dog
there is no banana left of cup man riding bicycle down street while woman holds umbrella
near building
""".split()
SYSTEM = "A chat between a curious user and an artificial intelligence assistant. "


def made_up_words(count: int) -> list[str]:
    """Make words of two to four syllables, so that few of a text are met before."""
    draw = random.Random(1)
    syllables = [one + two for one in "bcdfghlmnprstvw" for two in ("a", "e", "i", "o", "un", "er")]
    return ["".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(count)]


def rows(count: int, words: int, vocabulary: int = 0) -> list[dict[str, object]]:
    """Make LLaVA rows of one question and one answer.

    The words are English ones, or as many made-up ones, the n-th drawn 1/n as often as the first.
    """
    draw = random.Random(0)
    known = made_up_words(vocabulary) if vocabulary else WORDS
    shares = (
        list(accumulate(1 / (place + 1) for place in range(len(known)))) if vocabulary else None
    )
    made = []
    for number in range(count):
        ask = "<image>\nWhat is " + " ".join(draw.choices(known, cum_weights=shares, k=8)) + "?"
        said = " ".join(draw.choices(known, cum_weights=shares, k=words)).capitalize() + "."
        spoken = [{"from": "human", "value": ask}, {"from": "gpt", "value": said}]
        made.append({"id": number, "image": "a.jpg", "conversations": spoken})
    return made


def ids_with_image(text: str, tokenizer: object) -> list[int]:
    """Tokenize what stands before and after the image, and put its id between."""
    first, *rest = [tokenizer(piece).input_ids for piece in text.split("<image>")]
    for piece in rest:
        first = [*first, -200, *piece]
    return first


def per_record(row: dict[str, object], tokenizer: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenize and mask one record by counting the tokens of its pieces."""
    question, answer = (turn["value"] for turn in row["conversations"])
    opening = f"{SYSTEM}USER: {question} ASSISTANT: "
    ids = torch.tensor(ids_with_image(opening + answer + "</s>", tokenizer))
    labels = ids.clone()
    whole = len(ids_with_image(opening + answer, tokenizer))
    asked = len(ids_with_image(opening, tokenizer)) - 2
    labels[: 1 + asked] = -100
    labels[1 + whole :] = -100
    return ids, labels


class Taken:
    """Times of both: in turns where there is one process, whose CPU time is measured."""

    def __init__(self, in_turns: bool, rows: list[dict[str, object]], tokenizer: object) -> None:
        self.in_turns = in_turns
        self.clock = time.process_time if in_turns else time.perf_counter
        self.rows = rows
        self.tokenizer = tokenizer
        self.baseline: list[float] = []
        self.parts: list[tuple[int, float]] = []
        for row in rows[:200]:
            per_record(row, tokenizer)

    def per_record(self) -> None:
        """Time the per-record path."""
        begun = self.clock()
        for row in self.rows:
            per_record(row, self.tokenizer)
        self.baseline.append(self.clock() - begun)

    def begin(self) -> None:
        """Begin to time the preparation."""
        self.begun = self.clock()

    def part(self, _: str, done: int) -> None:
        """Note that so many records are prepared."""
        self.parts.append((done, self.clock() - self.begun))
        if self.in_turns:
            self.per_record()
            self.begin()

    def rates(self) -> tuple[float, float]:
        """Return records a second: prepared after the first part, which holds the start of the
        processes, and by the per-record path.
        """
        done = self.parts[-1][0] - self.parts[0][0]
        if self.in_turns:
            seconds = sum(taken for _, taken in self.parts[1:])
        else:
            seconds = self.parts[-1][1] - self.parts[0][1]
        return done / seconds, len(self.rows) * len(self.baseline) / sum(self.baseline)


def main() -> None:
    """Measure both, and print records a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer")
    parser.add_argument("--kind", choices=[*KINDS])
    parser.add_argument("--template", default="own", choices=["own", *SHIPPED_TEMPLATES])
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--vocabulary", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if (given.tokenizer is None) == (given.kind is None):
        parser.error("give one of --tokenizer and --kind")
    tokenizer = make(given.kind) if given.kind else AutoTokenizer.from_pretrained(given.tokenizer)
    made = rows(given.records, given.words, given.vocabulary)
    taken = Taken(given.workers == 1, made[:1000], tokenizer)
    before = os.getloadavg()[0]
    taken.per_record()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        path.write_bytes(msgspec.json.encode(made))
        taken.begin()
        prepared = prepare(
            [SourceSettings(data=str(path))],
            tokenizer,
            template=load_template(given.template, tokenizer),
            image_tokens=SameTokens(tokens=576),
            max_tokens=2048,
            folder=Path(folder, "prepared"),
            workers=given.workers,
            progress=taken.part,
        )
        tokens = prepared.lengths.mean() - 576 + 1
    rate, baseline = taken.rates()
    print(f"{given.records:,} records of {tokens:.0f} tokens without the image's; load {before}")
    print("seconds of", "CPU" if given.workers == 1 else "the clock")
    print(f"per record, one process: {baseline:,.0f} a second")
    print(f"laterna prepare, {given.workers} processes after the first part: {rate:,.0f} a second")
    print(f"ratio: {rate / baseline:.2f}")


if __name__ == "__main__":
    main()
