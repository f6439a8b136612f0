"""Base models from nothing: `PYTHONPATH=tools python -m pretrain_nano vision --out DIR`.

`measure` asks the shipped ones what they know.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Literal

import rich
import tyro
from rich.table import Table

from laterna.errors import told
from pretrain_nano.encoder_decoder import pretrain_encoder_decoder
from pretrain_nano.language import go_on, pretrain_language
from pretrain_nano.measure import measure_bases, measure_encoder_decoder
from pretrain_nano.regions import learn_regions
from pretrain_nano.settings import (
    FURTHER,
    EncoderDecoderPretraining,
    LanguagePretraining,
    RegionPretraining,
    VisionPretraining,
    report,
)
from pretrain_nano.vision import pretrain_vision


def vision(out: Path, settings: VisionPretraining) -> None:
    """Pretrain the nano vision encoder and write it to OUT."""
    report(pretrain_vision(settings, out))


def regions(encoder: Path, out: Path, settings: RegionPretraining) -> None:
    """Go on with the vision encoder of folder ENCODER, patch by patch, and write it to OUT."""
    report(learn_regions(encoder, settings, out))


def language(out: Path, settings: LanguagePretraining) -> None:
    """Pretrain the nano language model with its tokenizer and write both to OUT."""
    report(pretrain_language(settings, out))


def further(begun: Path, out: Path, settings: LanguagePretraining) -> None:
    """Go on with the language model of folder BEGUN and write it to OUT."""
    report(go_on(begun, settings, out))


def encoder_decoder(begun: Path, out: Path, settings: EncoderDecoderPretraining) -> None:
    """Make a T5 of the language model of folder BEGUN, or go on with the T5 that is there, and
    write it to OUT.
    """
    report(pretrain_encoder_decoder(begun, settings, out))


def measure(only: Literal["", "encoder-decoder"] = "") -> None:
    """Measure what the shipped bases know of the world; `only` one of them.

    Args:
        only: `encoder-decoder`: this one alone. Default: all.
    """
    known_of_all = ([] if only else measure_bases()) + measure_encoder_decoder()
    table = Table("base knows", "accuracy", "control", "chance", "examples")
    for known in known_of_all:
        shares = (known.accuracy, known.control, known.chance)
        table.add_row(known.what, *(f"{share:.3f}" for share in shares), str(known.examples))
    rich.print(table)


def main() -> int:
    """Run the command line and return its exit status: 0, or 2 for what the user can mend."""
    further_courses = {name: partial(further, settings=made) for name, made in FURTHER.items()}
    return told(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {
                "vision": vision,
                "regions": regions,
                "language": language,
                **further_courses,
                "encoder-decoder": encoder_decoder,
                "measure": measure,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
