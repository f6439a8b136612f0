"""What an answer hangs on: maps held against networks whose answer is known to hang on one cell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch import Tensor

from laterna.data.batches import collate
from laterna.data.masking import tokenize
from laterna.errors import LaternaError
from laterna.inference.assistant import Assistant
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.covering import Covering, windows_of
from laterna.inference.engine import Engine, EngineStats, TooLongError
from laterna.inference.explain import (
    MAPS,
    METHODS,
    explain,
    possible_methods,
    shown_methods,
)
from laterna.inference.explanation import Asked, Explanation
from laterna.model.build import build_from_recipe
from laterna.model.connectors.base import Connector
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import InstructionRecord, Pack, Turn

from .conftest import NOISE, QUESTION, Constant


class OneCell(Connector):
    """Hands on the token of one cell; the others are the same for every image."""

    is_map = True

    def __init__(self, inner: Connector, cell: int) -> None:
        super().__init__()
        self.inner, self.cell = inner, cell

    def tokens(self, n: int) -> int:
        return n

    def forward(self, features_bnd: Tensor) -> Tensor:
        tokens_bmd: Tensor = self.inner(features_bnd)
        kept = torch.zeros(tokens_bmd.shape[1], 1)
        kept[self.cell] = 5
        return tokens_bmd * kept


def tensor(values: object) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("cell", [0, 6, 15])
def test_occlusion_finds_the_cell_that_the_answer_hangs_on(
    sighted: VisionLanguageModel, cell: int
) -> None:
    sighted.connector = OneCell(sighted.connector, cell)
    found = Assistant(sighted).explain(NOISE, QUESTION, "It is red.")
    assert found.occlusion is not None
    overall = tensor(found.occlusion.overall)
    assert overall.shape == (4, 4)
    elsewhere = overall.flatten().clone()
    elsewhere[cell] = 0
    assert abs(float(overall.flatten()[cell])) > 0.01
    assert float(elsewhere.abs().max()) < 1e-5
    assert len(found.occlusion.tokens) == len(found.tokens) > 2
    torch.testing.assert_close(tensor(found.occlusion.tokens).sum(0), overall)


def test_a_window_covers_its_cells_together(sighted: VisionLanguageModel) -> None:
    sighted.connector = OneCell(sighted.connector, 6)  # row 1, column 2
    one = Assistant(sighted).explain(NOISE, QUESTION, "It is red.").occlusion
    three = Assistant(sighted).explain(NOISE, QUESTION, "It is red.", window=3).occlusion
    assert one is not None and three is not None and three.window == 3
    expected = torch.zeros(4, 4)
    expected[:3, :3] = one.overall[1][2]
    torch.testing.assert_close(tensor(three.overall), expected, atol=1e-4, rtol=0)
    assert windows_of(4, 3) == [
        (slice(0, 3), slice(0, 3)),
        (slice(0, 3), slice(3, 4)),
        (slice(3, 4), slice(0, 3)),
        (slice(3, 4), slice(3, 4)),
    ]
    assert windows_of(4, 9) == [(slice(0, 4), slice(0, 4))]


@pytest.mark.parametrize("sighted", ["prefix", "cross_attention", "encoder_decoder"], indirect=True)
def test_drops_and_log_probabilities_are_the_networks_own(sighted: VisionLanguageModel) -> None:
    """By another way: the training loss's logits over the same chat, rendered as a record."""
    turns = (
        Turn(role="user", text=f"<image>\n{QUESTION}"),
        Turn(role="assistant", text="It is red.", loss=True),
    )
    record = InstructionRecord(id="a", images=("a",), turns=turns)
    positions = sighted.image_tokens(56, 56)
    tokenized = tokenize(record, sighted.tokenizer, sighted.template)
    sample = replace(tokenized, image_tokens=(positions,))
    batch = collate([Pack(samples=(sample,))])
    pixels_bchw = sighted.prepare([NOISE])

    def logprobs(pixels_bchw: Tensor) -> Tensor:
        with torch.no_grad():
            logits, ids = sighted.target_logits(replace(batch, pixels_bchw=pixels_bchw))
        return logits.log_softmax(-1).gather(1, ids[:, None])[:-1, 0]  # without the end of turn

    found = Assistant(sighted).explain(NOISE, QUESTION, "It is red.")
    whole = logprobs(pixels_bchw)
    torch.testing.assert_close(
        tensor([one.logprob for one in found.tokens]), whole, atol=1e-4, rtol=0
    )
    pixels_bchw[:, :, 14:28, 42:56] = 0  # the encoder's mean: row 1, column 3
    assert found.occlusion is not None
    drops = [token[1][3] for token in found.occlusion.tokens]
    torch.testing.assert_close(tensor(drops), whole - logprobs(pixels_bchw), atol=1e-4, rtol=0)
    assert float(tensor(drops).abs().max()) > 1e-3
    assert "".join(one.text for one in found.tokens).strip() == found.answer == "It is red."
    assert found.prompt == f"<s>USER: <image>\n{QUESTION} ASSISTANT:"
    assert found.prompt_tokens == len(sample.input_ids) - len(found.tokens) - 2 + positions


def test_the_answer_is_the_models_own_unless_it_is_given(sighted: VisionLanguageModel) -> None:
    assistant = Assistant(sighted)
    answer = assistant.answer(NOISE, QUESTION, max_new_tokens=5)
    found = assistant.explain(NOISE, QUESTION, methods=(), max_new_tokens=5)
    assert found.answer == answer
    assert len(found.tokens) <= 5
    assert (found.occlusion, found.attention, found.words, found.lens) == (None,) * 4
    path = [Turn(role="user", text=f"<image>\n{QUESTION}"), Turn(role="assistant", text="Red."),
            Turn(role="user", text="Sure?")]  # fmt: skip
    later = assistant.explain(NOISE, path, "Yes.", methods=())
    assert later.prompt.endswith("ASSISTANT: Red.</s>USER: Sure? ASSISTANT:")


def test_the_image_is_shown_as_the_encoder_gets_it(sighted: VisionLanguageModel) -> None:
    square = Assistant(sighted).explain(NOISE, QUESTION, "Red.", methods=()).image
    assert [(view.image.size, view.rows, view.columns) for view in square.views] == [
        ((56, 56), 4, 4)
    ]
    assert list(square.views[0].image.get_flattened_data()) == list(NOISE.get_flattened_data())
    wide = Image.new("RGB", (56, 28), (255, 0, 0))
    (view,) = Assistant(sighted).explain(wide, QUESTION, "Red.", methods=()).image.views
    assert view.image.getpixel((28, 28)) == (255, 0, 0)
    assert view.image.getpixel((28, 3)) == sighted.prepare.mean_colour


def tiled(recipe: Recipe) -> VisionLanguageModel:
    return build_from_recipe(
        replace(recipe, vision=replace(recipe.vision, fit="anyres", grids=((1, 2), (2, 1))))
    )


def test_a_tiled_image_is_explained_on_its_whole_view(tiny_recipe: Recipe) -> None:
    model = tiled(tiny_recipe)
    image = NOISE.resize((80, 40))
    found = Assistant(model).explain(image, QUESTION, "It is red.", methods=tuple(METHODS))
    assert len(found.image.views) == 3  # whole, and 1 by 2 tiles
    assert found.image.tokens == model.image_tokens(80, 40) == 4 + 2 * 5
    assert found.occlusion is not None and found.attention is not None
    assert tensor(found.occlusion.tokens).shape == (len(found.tokens), 2, 2)
    assert tensor(found.attention.overall).shape == (2, 2)
    assert "of the whole view alone, which gets" in found.attention.note
    assert found.words is not None and [len(row) for row in found.words.words] == [2, 2]


def test_what_is_covered_is_gone_from_every_tile(tiny_recipe: Recipe) -> None:
    model = tiled(tiny_recipe)
    image = Image.new("RGB", (56, 28), (255, 255, 255))
    blank = model.prepare([model.prepare.blank(56, 28)])
    covering = Covering(model.prepare, image, 2)
    torch.testing.assert_close(covering.cover((slice(0, 2), slice(0, 2))), blank)
    half = covering.cover((slice(0, 2), slice(0, 1)))
    torch.testing.assert_close(half[1], blank[1])  # the left tile
    torch.testing.assert_close(half[2], covering.pixels_bchw[2])  # the right one


def test_one_of_several_images_is_explained(sighted: VisionLanguageModel) -> None:
    sighted.connector = OneCell(sighted.connector, 6)
    other = Image.effect_noise((56, 56), 50).convert("RGB")
    turns = [Turn(role="user", text="<image> or <image>?")]
    engine = Engine(sighted)

    def of(which: int, images: list[Image.Image]) -> Explanation:
        return explain(engine, Asked(turns, images, "It is red.", which))

    first, second = of(0, [NOISE, other]), of(1, [NOISE, other])
    assert (first.image.index, second.image.index) == (0, 1)
    assert list(second.image.views[0].image.get_flattened_data()) == list(
        other.get_flattened_data()
    )
    assert first.occlusion is not None and second.occlusion is not None
    assert first.tokens == second.tokens
    assert abs(first.occlusion.overall[1][2]) > 0.01 < abs(second.occlusion.overall[1][2])
    assert first.occlusion.overall[1][2] != second.occlusion.overall[1][2]
    engine.close()


def test_what_cannot_be_explained_is_refused(sighted: VisionLanguageModel) -> None:
    assistant = Assistant(sighted)
    for arguments, message in [
        ((None, QUESTION), "no image in this chat"),
        ((NOISE, QUESTION, "", ()), "the answer is empty"),
        ((NOISE, QUESTION, "Red.", ("magic",)), "'magic': no such method; use occlusion"),
    ]:
        with pytest.raises(LaternaError, match=message):
            assistant.explain(*arguments)
    with pytest.raises(LaternaError, match="window = 0"):
        assistant.explain(NOISE, QUESTION, "Red.", window=0)
    with pytest.raises(TooLongError, match="the model has 256 positions"):
        assistant.explain(NOISE, QUESTION, "It is red. " * 200)
    turns = [Turn(role="user", text=f"<image>\n{QUESTION}")]
    with pytest.raises(LaternaError, match="image 1: the chat has 1"):
        explain(assistant.engine, Asked(turns, [NOISE], "Red.", 1))


def test_what_is_no_map_says_so(sighted: VisionLanguageModel) -> None:
    class Latents(Constant):
        is_map = False

    sighted.connector = Latents(torch.randn(5, 32))
    sighted.connector.tokens = lambda n: 5  # type: ignore[method-assign]
    assistant = Assistant(sighted)
    found = assistant.explain(NOISE, QUESTION, "Red.").occlusion
    assert found is not None and tensor(found.overall).shape == (4, 4)
    for method in ("attention", "words", "lens"):
        with pytest.raises(LaternaError, match=f"{method}: the connector's tokens are no map"):
            assistant.explain(NOISE, QUESTION, "Red.", (method,))


@pytest.mark.parametrize(
    ("sighted", "possible", "shown"),
    [
        ("prefix", tuple(METHODS), MAPS),
        ("encoder_decoder", ("occlusion", "words"), ("occlusion", "words")),
        ("cross_attention", ("occlusion",), ("occlusion",)),
    ],
    indirect=["sighted"],
)
def test_what_a_fusion_has_is_told_and_the_rest_refused(
    sighted: VisionLanguageModel, possible: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    assert possible_methods(sighted.fusion) == possible
    assert shown_methods(sighted.fusion) == shown
    assistant = Assistant(sighted)
    found = assistant.explain(NOISE, QUESTION, "Red.", possible)
    assert all(getattr(found, name) is not None for name in possible)
    assert assistant.explain(NOISE, QUESTION, None, ("occlusion",), max_new_tokens=3).tokens
    for name in set(METHODS) - set(possible):
        with pytest.raises(LaternaError, match=f"{name}: the images .* use {', '.join(possible)}"):
            assistant.explain(NOISE, QUESTION, "Red.", (name,))


def test_proceed_ends_the_work(sighted: VisionLanguageModel) -> None:
    engine, asked = Engine(sighted), Asked([Turn(role="user", text="<image>")], [NOISE], "Red.")
    calls = []

    def until(count: int) -> Callable[[], None]:
        def proceed() -> None:
            calls.append(1)
            if len(calls) == count:
                raise TimeoutError

        return proceed

    for count in (1, 4):
        calls.clear()
        with pytest.raises(TimeoutError):
            explain(engine, asked, until(count))
        assert len(calls) == count
    with pytest.raises(TimeoutError):
        explain(engine, asked._replace(answer=None), until(5))
    assert engine.stats().running <= 1  # what was being written is cancelled
    engine.close()


def test_one_window_at_a_time_while_others_are_being_answered(
    sighted: VisionLanguageModel,
) -> None:
    class Busy(Engine):
        def stats(self) -> EngineStats:
            return replace(super().stats(), running=1)

    asked = Asked([Turn(role="user", text="<image>")], [NOISE], "Red.")
    pieces, found = [], []
    for kind in (Engine, Busy):
        engine, calls = kind(sighted, EngineSettings(chunk=4096)), list[int]()
        found.append(explain(engine, asked, lambda calls=calls: calls.append(1)).occlusion)
        pieces.append(len(calls))
        engine.close()
    assert pieces == [3, 2 + 16]  # the image, the answer, and the windows: all at once, or each
    assert found[0] is not None and found[1] is not None
    torch.testing.assert_close(
        tensor(found[0].overall), tensor(found[1].overall), atol=1e-4, rtol=0
    )
