"""Prompts and samples hold against LLaVA's own: ids and labels, with its own kind of tokenizer.

The rows were made by LLaVA's own code (`../shared/data/vectors`), the tokenizer is SentencePiece's,
read with `legacy` true and false.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from laterna.data.chat import load_template
from laterna.data.masking import check_record, tokenise, tokenise_prompt
from laterna.data.preparation.tokens import Tokeniser, runs_of
from laterna.model.sentencepiece import read_tokenizer
from laterna.records import PICTURE_MARK, InstructionRecord, Sample, Turn

VECTORS = Path(__file__).parents[3] / "shared/data/vectors/llava_samples.jsonl"
IGNORED = -100
ROLES = {"human": "user", "gpt": "assistant"}
Row = dict[str, Any]


def model_file() -> Path | None:
    """SentencePiece's file in mistral-common, found without importing that package."""
    spec = find_spec("mistral_common")
    found = Path(spec.origin).parent / "data/tokenizer.model.v1" if spec and spec.origin else None
    return found if found and found.is_file() else None


pytestmark = [
    pytest.mark.skipif(not VECTORS.is_file(), reason="needs ../shared/data/vectors"),
    pytest.mark.skipif(model_file() is None, reason="needs `pip install mistral-common`"),
    pytest.mark.skipif(find_spec("sentencepiece") is None, reason="needs sentencepiece"),
]


def write_tokenizer(folder: Path, *, legacy: bool) -> Path:
    """A folder with `tokenizer.model` alone, as original LLaVA's have it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model_file()
    assert model is not None
    shutil.copy(model, folder / "tokenizer.model")
    said = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return {
        legacy: read_tokenizer(str(write_tokenizer(folder / str(legacy), legacy=legacy)))
        for legacy in (True, False)
    }


@cache
def rows() -> list[Row]:
    return [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]


def turns_of(row: Row) -> list[Turn]:
    own = row["system"] == "the template's own" or row["template"] == "plain"
    turns = [] if own else [Turn(role="system", text=row["system"])]
    for said in row["conversations"]:
        role = ROLES[said["from"]]
        turns.append(Turn(role=role, text=said["value"], loss=role == "assistant"))  # type: ignore[arg-type]
    return turns


def record_of(row: Row) -> InstructionRecord:
    turns = turns_of(row)
    pictures = sum(turn.text.count(PICTURE_MARK) for turn in turns)
    return InstructionRecord(id=row["case"], pictures=("a.jpg",) * pictures, turns=tuple(turns))


def labels(sample: Sample) -> list[int]:
    pairs = zip(sample.input_ids, sample.targets, strict=True)
    return [token if wanted else IGNORED for token, wanted in pairs]


def misfits(tokenizers: dict[bool, Any]) -> Iterator[str]:
    """Yield what differs from LLaVA's own, by row."""
    for row in rows():
        tokenizer = tokenizers[row["legacy"]]
        name = f"{row['template']} {row['case']} {row['legacy']} {row['system'][:8]!r}"
        first = load_template(row["template"], tokenizer, "first")
        sample = check_record(record_of(row), tokenizer, first)
        if not isinstance(sample, Sample):
            yield f"{name}: {sample}"
            continue
        if list(sample.input_ids) != row["train_input_ids"]:
            yield f"{name}: ids {list(sample.input_ids)} {row['train_input_ids']}"
        elif not row["all_masked_by_llava"] and labels(sample) != row["train_labels"]:
            yield f"{name}: labels"
        if "prompt_ids" in row:
            keep = load_template(row["template"], tokenizer)
            if tokenise_prompt(turns_of(row)[:-1], tokenizer, keep) != row["prompt_ids"]:
                yield f"{name}: prompt"


def test_ids_and_labels_are_llavas(llama: dict[bool, Any]) -> None:
    assert not list(misfits(llama))
