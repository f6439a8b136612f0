from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from transformers import PreTrainedTokenizerFast

from laterna.data.images.tokens import SameTokens
from laterna.data.preparation import Prepared, prepare
from laterna.recipe import SourceSettings
from laterna.records import InstructionRecord


class Maker:
    """Writes records to files and prepares them with one tokenizer."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder = folder
        self.tokenizer = tokenizer

    def source(
        self, records: Sequence[InstructionRecord], images: str = "", weight: float = 1.0
    ) -> SourceSettings:
        content = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
        path = self.folder / f"{abs(hash(content))}.jsonl"
        path.write_bytes(content)
        return SourceSettings(data=str(path), images=images, weight=weight)

    def prepare(self, *sources: SourceSettings, **settings: object) -> Prepared:
        given = {
            "template": self.tokenizer.chat_template,
            "image_tokens": SameTokens(tokens=16),
            "max_tokens": 200,
            "folder": self.folder / "prepared",
            "workers": 1,
        }
        return prepare(sources, self.tokenizer, **(given | settings))  # type: ignore[arg-type]


@pytest.fixture
def maker(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerFast]) -> Maker:
    return Maker(tmp_path, tokenizers["byte_level"])
