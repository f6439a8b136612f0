"""docs/models.md says what the models are now, and what they are is what was published."""

from __future__ import annotations

import msgspec
import pytest

from ask_timm import ANSWERS, Answers, timm_row
from ask_timm import ENCODERS as TIMM_ENCODERS
from laterna.data.images.tokens import SameTokens
from laterna.model.build import build_from_recipe
from laterna.recipe import load_recipe
from write_models_page import (
    CONNECTIONS,
    ENCODERS,
    LANGUAGES,
    PAGE,
    connector_row,
    encoder_row,
    language_row,
    nano_row,
    qformer_sum,
    render_page,
)


def test_the_page_is_what_its_tool_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), (
        "run `python tools/write_models_page.py` and look at what changed"
    )


@pytest.mark.parametrize(
    ("name", "pixels", "tokens", "width"),
    [
        ("openai/clip-vit-large-patch14", 224, 256, 1024),
        ("openai/clip-vit-large-patch14-336", 336, 576, 1024),
        ("google/siglip-so400m-patch14-384", 384, 729, 1152),
        ("facebook/dinov2-large", 224, 256, 1024),
        ("Salesforce/blip2-flan-t5-xxl", 224, 257, 1408),
        ("package:efficientnet-lite0", 320, 100, 1280),
    ],
)
def test_tokens_and_widths_as_published(name: str, pixels: int, tokens: int, width: int) -> None:
    (row,) = [
        encoder_row(encoder)
        for encoder in ENCODERS
        if (encoder.name, encoder.pixels) == (name, pixels)
    ]
    assert (row.tokens, row.width) == (tokens, width)


def test_one_layer_of_24_is_not_run_for_layer_minus_2() -> None:
    row = encoder_row(ENCODERS[0])
    a_layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    assert row.weights - row.run == a_layer + 2 * 1024  # and the norm behind it


def test_the_nano_row_is_the_nano_assistant() -> None:
    assistant = build_from_recipe(load_recipe("nano"))
    row = nano_row()
    assert SameTokens(tokens=row.tokens) == assistant.image_tokens
    assert row.width == assistant.vision.width
    assert row.run == sum(weight.numel() for weight in assistant.vision.parameters())


def test_weights_as_published() -> None:
    rows = {row.toml: row for row in map(connector_row, CONNECTIONS)}
    assert rows['kind = "linear"'].weights == 4_198_400
    assert rows['kind = "mlp"'].weights == 4_198_400 + 4096 * 4096 + 4096
    assert language_row("Vicuna 7B", LANGUAGES["Vicuna 7B, Llama 2 7B"]).weights == 6_738_415_616


def test_what_of_the_qformer_is_ours() -> None:
    parts = qformer_sum()
    assert parts.ours == 105_162_240
    assert parts.all == 186_079_234
    assert parts.all < parts.most < 188_000_000


def test_one_encoder_is_the_same_through_two_libraries() -> None:
    answers = msgspec.json.decode(ANSWERS.read_bytes(), type=Answers)
    assert [(row.name, row.layer) for row in answers.rows] == list(TIMM_ENCODERS)
    rows = {(row.name, row.layer): row for row in answers.rows}
    clip = rows["vit_large_patch14_clip_336.openai", -2]
    ours = encoder_row(ENCODERS[1])
    assert (clip.tokens, clip.width) == (ours.tokens, ours.width)
    assert (clip.weights, clip.run) == (ours.weights, ours.run)


def test_the_rows_of_timm_are_what_timm_says() -> None:
    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:  # torchvision fails in each of these ways
        pytest.skip(f"timm does not import here: {error}")
    answers = msgspec.json.decode(ANSWERS.read_bytes(), type=Answers)
    if timm.__version__ != answers.version:
        pytest.skip(f"timm {timm.__version__}, and {answers.version} was asked")
    assert [timm_row(*encoder) for encoder in TIMM_ENCODERS] == list(answers.rows)
