"""The tool that gives a connector first weights that speak in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from laterna.errors import LaternaError
from laterna.model.connectors import build_connector
from laterna.recipe import ConnectorSettings
from laterna.records import Sample
from real_small.word_connector import Line, fit_words, perceptron, ridge
from real_small.word_learning import learn_words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from laterna.model.vlm import VisionLanguageModel

IMAGES, PATCHES, THINGS, D_VISION, D_LANGUAGE = 400, 9, 5, 12, 16


class Shelf:
    """Images of two things each, on two of their patches, and the mean word of each image."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.look = torch.randn(THINGS, D_VISION, generator=draw)
        self.word = nn.functional.normalize(torch.randn(THINGS, D_LANGUAGE, generator=draw), dim=-1)
        self.things = torch.stack(
            [torch.randperm(THINGS, generator=draw)[:2] for _ in range(IMAGES)]
        )
        noise = torch.randn(IMAGES, PATCHES, D_VISION, generator=draw)
        self.features = 3.0 + 0.3 * noise
        self.features[:, :2] += self.look[self.things]
        self.words = self.word[self.things].mean(1)

    def named(self, words: Tensor) -> float:
        """Return how often a patch of the second half is nearest to the word of its thing, where
        the first half was fitted to `words`.
        """
        half = IMAGES // 2
        line = ridge(self.features[:half], words[:half])
        tokens = self.features[half:, :2] @ line.weight_ed.T + line.bias_e
        centred = self.word - self.word.mean(0)
        return float(((tokens @ centred.T).argmax(-1) == self.things[half:]).float().mean())


def test_a_patch_is_mapped_to_the_words_of_what_it_shows() -> None:
    shelf = Shelf()
    assert shelf.named(shelf.words) > 0.9
    others = shelf.words[torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1))]
    assert shelf.named(others) < 0.5


def test_a_perceptron_carries_as_much_of_a_line_as_its_width_has_pairs() -> None:
    draw = torch.Generator().manual_seed(0)
    features = 5 + 3 * torch.randn(50, PATCHES, D_VISION, generator=draw)
    low = torch.randn(D_LANGUAGE, 3, generator=draw) @ torch.randn(3, D_VISION, generator=draw)
    bias = torch.randn(D_LANGUAGE, generator=draw)

    def apart(weight: Tensor, hidden: int) -> float:
        first, last = perceptron(Line(weight, bias), features, hidden)
        inner = nn.functional.gelu(features @ first.weight_ed.T + first.bias_e)
        made = inner @ last.weight_ed.T + last.bias_e
        return float((made - (features @ weight.T + bias)).norm() / features.norm())

    assert apart(low, hidden=6) < 1e-5  # rank 3 in three pairs
    assert apart(low, hidden=11) < 1e-5  # two pairs idle, and a unit without a partner
    assert apart(low, hidden=4) > 0.05
    full = torch.randn(D_LANGUAGE, D_VISION, generator=draw)
    assert apart(full, hidden=24) < 1e-5
    assert apart(full, hidden=22) > 0.01


def test_hidden_units_have_spread_1() -> None:
    features = 5 + 3 * torch.randn(
        50, PATCHES, D_VISION, generator=torch.Generator().manual_seed(0)
    )
    line = Line(torch.eye(D_LANGUAGE, D_VISION), torch.zeros(D_LANGUAGE))
    first, _ = perceptron(line, features, 10)
    units = (features @ first.weight_ed.T + first.bias_e).flatten(0, 1)
    torch.testing.assert_close(units.mean(0), torch.zeros(10), atol=1e-4, rtol=0)
    torch.testing.assert_close(units.std(0), torch.ones(10), atol=1e-4, rtol=0)


@pytest.fixture
def red_and_blue(tmp_path: Path) -> Path:
    for name, colour in (("red.png", (250, 0, 0)), ("blue.png", (0, 0, 250))):
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("kind", ["linear", "mlp", "pool"])
def test_the_tokens_are_as_long_as_words_and_lean_to_their_own(
    kind: str,
    tiny_assistant: VisionLanguageModel,
    answered: Callable[[str, str], Sample],
    red_and_blue: Path,
) -> None:
    assistant = tiny_assistant
    texts = {"red.png": "It is red.", "blue.png": "It is blue."}
    _connect(assistant, kind=kind)
    samples = [answered(name, text) for name, text in texts.items()]
    assert fit_words(assistant, samples, red_and_blue) == 2
    table = assistant.language.get_input_embeddings().weight
    tokens = _tokens(assistant, red_and_blue)
    assert tokens.norm(dim=-1).square().mean().sqrt().item() == pytest.approx(
        table.norm(dim=-1).square().mean().sqrt().item(), rel=1e-3
    )
    words = [
        table[torch.tensor(assistant.tokenizer(text)["input_ids"])].mean(0)
        for text in texts.values()
    ]
    leans = (tokens.mean(1) @ (words[0] - words[1])).tolist()
    assert leans[0] > 0 > leans[1]


def _connect(assistant: VisionLanguageModel, **settings: object) -> None:
    chosen = msgspec.convert(settings, ConnectorSettings)
    assistant.connector = build_connector(chosen, assistant.vision.width, 32)


@torch.no_grad()
def _tokens(assistant: VisionLanguageModel, folder: Path) -> Tensor:
    images = [Image.open(folder / name) for name in ("red.png", "blue.png")]
    tokens: Tensor = assistant.connector(assistant.vision(assistant.prepare(images)))
    return tokens


def test_other_connectors_are_refused(tiny_assistant: VisionLanguageModel, tmp_path: Path) -> None:
    _connect(tiny_assistant, kind="mlp", depth=3)
    with pytest.raises(LaternaError, match="MlpConnector: only a linear connector and a perc"):
        fit_words(tiny_assistant, [], tmp_path)


def test_learning_words_says_more_of_them_than_ridge_and_shuffled_captions_do_not() -> None:
    shelf = Shelf()
    table = nn.functional.normalize(
        torch.randn(THINGS + 1, D_LANGUAGE, generator=torch.Generator().manual_seed(2)), dim=-1
    )
    said = [(0, *(thing + 1 for thing in pair)) for pair in shelf.things.tolist()]

    def best(bags: list[tuple[int, ...]]) -> tuple[float, float]:
        layers = [nn.Linear(D_VISION, 16), nn.Linear(16, D_LANGUAGE)]
        words = torch.stack([table[list(bag)].mean(0) for bag in bags])
        for layer, line in zip(
            layers, perceptron(ridge(shelf.features, words), shelf.features, 16), strict=True
        ):
            layer.weight.data, layer.bias.data = line.weight_ed, line.bias_e
        losses = learn_words(layers, shelf.features, bags, table, passes=40)
        return losses[0], min(losses)

    torch.manual_seed(0)
    before, after = best(said)
    # Who guesses pays log 5 = 1.61 a word; who knows which two things there are, log 2 = 0.69.
    assert after < before - 0.03
    assert after < 1.35
    shuffled = [said[at] for at in torch.randperm(IMAGES).tolist()]
    assert best(shuffled)[1] > 1.55
