"""Records about one picture each, prepared for an assistant: what several tools begin with."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from laterna.data.preparation import prepare
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import SourceSettings
from laterna.records import Sample


def prepared_samples(
    assistant: VisionLanguageModel, data: Path, pictures: Path, max_tokens: int
) -> list[Sample]:
    """Return the samples of a file of records in the assistant's template.

    Raises LaternaError where the file cannot be read, or none of its records can be used.
    """
    with TemporaryDirectory() as scratch:
        return list(
            prepare(
                (SourceSettings(data=str(data), pictures=str(pictures)),),
                assistant.tokenizer,
                template=assistant.template,
                picture_tokens=assistant.picture_tokens,
                max_tokens=max_tokens,
                folder=Path(scratch),
            ).samples
        )
