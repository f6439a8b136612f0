"""Records about one image each, prepared for an assistant: what several tools begin with."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from laterna.data.preparation import prepare
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import SourceSettings
from laterna.records import Sample


def prepared_samples(
    assistant: VisionLanguageModel, data: Path, images: Path, max_tokens: int
) -> list[Sample]:
    """Return the samples of a file of records in the assistant's template.

    Raises LaternaError where the file cannot be read, or none of its records can be used.
    """
    with TemporaryDirectory() as scratch:
        return list(
            prepare(
                (SourceSettings(data=str(data), images=str(images)),),
                assistant.tokenizer,
                template=assistant.template,
                image_tokens=assistant.image_tokens,
                max_tokens=max_tokens,
                folder=Path(scratch),
            ).samples
        )
