"""The tool that fits a linear connector to the words of captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from laterna.errors import LaternaError
from laterna.model.connectors import build_connector
from laterna.recipe import ConnectorSettings
from laterna.records import Sample
from word_connector import fit_words, ridge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from laterna.model.assistant import Assistant

PICTURES, PATCHES, THINGS, D_VISION, D_LANGUAGE = 400, 9, 5, 12, 16


class Shelf:
    """Pictures of two things each, on two of their patches, and the mean word of each picture."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.look = torch.randn(THINGS, D_VISION, generator=draw)
        self.word = nn.functional.normalize(torch.randn(THINGS, D_LANGUAGE, generator=draw), dim=-1)
        self.things = torch.stack(
            [torch.randperm(THINGS, generator=draw)[:2] for _ in range(PICTURES)]
        )
        noise = torch.randn(PICTURES, PATCHES, D_VISION, generator=draw)
        self.features = 3.0 + 0.3 * noise
        self.features[:, :2] += self.look[self.things]
        self.words = self.word[self.things].mean(1)

    def named(self, words: Tensor) -> float:
        """Return how often a patch of the second half is nearest to the word of its thing, where
        the first half was fitted to `words`.
        """
        half = PICTURES // 2
        line = ridge(self.features[:half], words[:half])
        tokens = self.features[half:, :2] @ line.weight_ed.T + line.bias_e
        centred = self.word - self.word.mean(0)
        return float(((tokens @ centred.T).argmax(-1) == self.things[half:]).float().mean())


def test_a_patch_is_mapped_to_the_words_of_what_it_shows() -> None:
    shelf = Shelf()
    assert shelf.named(shelf.words) > 0.9
    others = shelf.words[torch.randperm(PICTURES, generator=torch.Generator().manual_seed(1))]
    assert shelf.named(others) < 0.5


def test_the_tokens_are_as_long_as_words_and_lean_to_their_own(
    tiny_assistant: Assistant, answered: Callable[[str, str], Sample], tmp_path: Path
) -> None:
    assistant = tiny_assistant
    texts = {"red.png": "It is red.", "blue.png": "It is blue."}
    pixels = []
    for name, colour in (("red.png", (250, 0, 0)), ("blue.png", (0, 0, 250))):
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
        pixels.append(Image.open(tmp_path / name))
    assistant.connector = build_connector(
        ConnectorSettings(kind="linear"), assistant.vision.width, 32
    )
    samples = [answered(name, text) for name, text in texts.items()]
    fit_words(assistant, samples, tmp_path)
    table = assistant.language.get_input_embeddings().weight
    with torch.no_grad():
        tokens = assistant.connector(assistant.vision(assistant.prepare(pixels)))
    assert tokens.norm(dim=-1).square().mean().sqrt().item() == pytest.approx(
        table.norm(dim=-1).square().mean().sqrt().item(), rel=1e-3
    )
    words = [
        table[torch.tensor(assistant.tokenizer(text)["input_ids"])].mean(0)
        for text in texts.values()
    ]
    leans = (tokens.mean(1) @ (words[0] - words[1])).tolist()
    assert leans[0] > 0 > leans[1]


def test_other_connectors_are_refused(tiny_assistant: Assistant, tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="MlpConnector: only a linear connector is fitted"):
        fit_words(tiny_assistant, [], tmp_path)
