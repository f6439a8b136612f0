"""The real inputs that stand beside the repository, where they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real input {name} is not beside the repository (../shared)")
    return path


@pytest.fixture
def contexts_file() -> Path:
    """40 real COCO val2014 contexts, as LLaVA's teacher saw them."""
    return shared("data/coco2014_val_contexts.jsonl")


@pytest.fixture
def coco_mini() -> Path:
    """80 real COCO train2017 pictures with their annotations, in COCO's own form."""
    return shared("data/coco_mini")
