"""The key of a prepared set: all that decides what it holds is part of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from laterna.data import fingerprints
from laterna.data.images.tokens import SameTokens
from laterna.data.preparation import prepare
from laterna.data.preparation.cache import MANIFEST
from laterna.recipe import SourceSettings


def test_the_subset_of_a_hubs_dataset_is_part_of_the_key(
    tokenizers: dict[str, PreTrainedTokenizerFast],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Two subsets have one revision, so that alone would take the one for the other."""
    datasets = pytest.importorskip("datasets")

    def load_dataset(name: str, subset: str, *, streaming: bool) -> object:
        ask = {"role": "user", "content": "What?"}
        row = {"messages": [ask, {"role": "assistant", "content": f"It is {subset}."}]}
        return {"train": datasets.Dataset.from_list([row]).to_iterable_dataset()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(fingerprints, "hub_revision", lambda name: "a1b2")
    tokenizer = tokenizers["byte_level"]
    for subset in ("easy", "hard", "easy"):
        (sample,) = prepare(
            [SourceSettings(data="hub:owner/name", subset=subset)],
            tokenizer,
            template=str(tokenizer.chat_template),
            image_tokens=SameTokens(tokens=16),
            max_tokens=200,
            folder=tmp_path,
            workers=1,
        ).samples
        learned = [i for i, wanted in zip(sample.input_ids, sample.targets, strict=True) if wanted]
        assert tokenizer.decode(learned) == f"It is {subset}.<|im_end|>"
    kept = list(tmp_path.glob(f"*/{MANIFEST}"))
    assert len(kept) == 2, "a set a subset, and the third time nothing was prepared"
