"""The tool that ranks captions by their likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from laterna.data.batches import collate
from laterna.errors import LaternaError
from laterna.records import Pack
from laterna.training.objective import Objective
from real_small.ranking import likelihoods, rank

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from laterna.model.vlm import VisionLanguageModel
    from laterna.records import Sample


def test_likelihoods_are_the_loss_of_each_text_alone(
    tiny_assistant: VisionLanguageModel, answered: Callable[[str, str], Sample]
) -> None:
    samples = [answered(f"{at}.png", text) for at, text in enumerate(("It is red.", "Two."))]
    image = Image.new("RGB", (32, 32), (250, 0, 0))
    found = likelihoods(tiny_assistant, samples, image)
    pixels = tiny_assistant.prepare([image])
    for sample, nats in zip(samples, found.tolist(), strict=True):
        batch = collate([Pack(samples=(sample,))])
        loss = Objective(tiny_assistant)(replace(batch, pixels_bchw=pixels)).item()
        assert nats == pytest.approx(-loss / sum(sample.targets), abs=1e-4)


def test_the_own_caption_is_first_where_it_is_the_likeliest(
    tiny_assistant: VisionLanguageModel,
    answered: Callable[[str, str], Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = []
    for at in range(22):
        Image.new("RGB", (32, 32), (10 * at, 0, 0)).save(tmp_path / f"{at}.png")
        samples.append(answered(f"{at}.png", "It is there."))

    def knows(_model: object, listed: list[Sample], image: Image.Image) -> torch.Tensor:
        shown = f"{image.getpixel((0, 0))[0] // 10}.png"
        return torch.tensor([float(one.images[0] == shown) for one in listed])

    monkeypatch.setattr("real_small.ranking.likelihoods", knows)
    monkeypatch.setattr(
        tiny_assistant.prepare, "blank", lambda *size: Image.new("RGB", size, (255, 0, 0))
    )
    found, names = rank(tiny_assistant, samples, tmp_path, seed=0, limit=5)
    assert len(names) == 5
    assert all(one.by_likelihood and one.by_gain for one in found["own"])
    with pytest.raises(LaternaError, match="20 images with captions; give over 20"):
        rank(tiny_assistant, samples[:20], tmp_path, seed=0, limit=5)
