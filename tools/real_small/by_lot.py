"""Answers about images drawn by lot, beside a person's: by_lot.py RUN [--number 12] [--seed 0].

Reads a run of `laterna evaluate --task captions --out RUN`, and prints rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from laterna.errors import told
from laterna.evaluation.saved import read_run


def main() -> None:
    """Read the command line, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--number", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    answers = sorted(read_run(given.run).answers("captions"), key=lambda one: one.question.id)
    for one in random.Random(given.seed).sample(answers, min(given.number, len(answers))):
        name = Path(one.question.images[0]).name
        print(f"| {name} | {one.text} | {one.question.references[0]} |")


if __name__ == "__main__":
    sys.exit(told(main))
