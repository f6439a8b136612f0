"""Prepares a set in a process of its own and prints what its memory grew by: see `test_memory`.

    python peak.py SMALL LARGE FOLDER WORKERS

SMALL is prepared first, so that what grows is not what every preparation needs. Printed are the
records of LARGE, and in MiB by how much the peaks of this process and of a worker then grew.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from transformers import AutoTokenizer

from laterna.data.chat import load_template
from laterna.data.images.tokens import SameTokens
from laterna.data.preparation import Prepared, prepare
from laterna.model.sources import resolve
from laterna.recipe import SourceSettings


def main(small: str, large: str, folder: str, workers: str) -> None:
    """Prepare both, look at some samples, and print the figures as JSON."""
    tokenizer = AutoTokenizer.from_pretrained(resolve("builtin:nano-llama"))
    template = load_template("own", tokenizer)

    def prepared(data: str) -> Prepared:
        return prepare(
            [SourceSettings(data=data)],
            tokenizer,
            template=template,
            image_tokens=SameTokens(tokens=64),
            max_tokens=2048,
            folder=Path(folder),
            workers=int(workers),
        )

    def peak(who: int) -> float:
        return resource.getrusage(who).ru_maxrss / 1024

    prepared(small)
    before, worker = peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)
    found = prepared(large)
    last = found.samples[len(found.samples) - 1]
    figures = {
        "records": len(found.samples),
        "last": [last.id, int(found.lengths[-1]), last.length],
        "grown": peak(resource.RUSAGE_SELF) - before,
        "worker": peak(resource.RUSAGE_CHILDREN) - worker,
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
