from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPVisionModel

from laterna.world.captions import write_alt_text
from laterna.world.drawing import draw_image
from laterna.world.scenes import draw_truth
from pretrain_nano.settings import VisionPretraining
from pretrain_nano.vision import (
    BOS,
    CLIP_MEAN,
    CLIP_STD,
    EOS,
    PAD,
    TEXT_LENGTH,
    DrawnPairs,
    PretrainingModel,
    pretrain_vision,
    sine_places,
    vision_config,
    vocabulary,
)


def test_the_vocabulary_holds_all_that_alt_text_says() -> None:
    words = vocabulary()
    assert sorted(words.values()) == list(range(3, 3 + len(words)))
    longest = 0
    for index in range(1500):
        text = write_alt_text(draw_truth("pretrain", 0, index), np.random.default_rng(index))
        assert set(text.split()) <= set(words)
        longest = max(longest, len(text.split()) + 2)
    assert 55 < longest <= TEXT_LENGTH


def test_pairs_are_images_with_the_ids_of_their_text() -> None:
    pairs = DrawnPairs(VisionPretraining(seed=4, steps=50, batch=2))
    pixels, ids = pairs[60]
    truth = draw_truth("pretrain", 4, 60)
    image = np.asarray(draw_image(truth, noise_seed=60), dtype=np.float32) / 255
    assert len(pairs) == 100
    assert pixels.shape == (3, 112, 112)
    assert np.allclose(pixels.numpy().transpose(1, 2, 0), image)
    words = {number: word for word, number in vocabulary().items()}
    real = [int(number) for number in ids if number != PAD]
    assert ids.shape == (TEXT_LENGTH,)
    assert (real[0], real[-1]) == (BOS, EOS)
    text = write_alt_text(truth, np.random.default_rng([4, 60]))
    assert " ".join(words[number] for number in real[1:-1]) == text


def test_places_are_sines_of_row_then_column() -> None:
    places = sine_places(3, 8)
    assert places.shape == (9, 8)
    # Two waves, of 1 and e^-4 radians a patch; each patch: its row's sines and cosines, then its
    # column's.
    slow = math.exp(-4)
    line = [[math.sin(n), math.sin(n * slow), math.cos(n), math.cos(n * slow)] for n in range(3)]
    wanted = [[*line[row], *line[column]] for row in range(3) for column in range(3)]
    assert places.tolist() == [pytest.approx(values, abs=1e-6) for values in wanted]
    assert places[0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert places[5].tolist() == pytest.approx(
        [0.841471, 0.018315, 0.540302, 0.999832, 0.909297, 0.036623, -0.416147, 0.999329], abs=1e-6
    )


def test_the_encoder_starts_with_the_sines_behind_the_class_token() -> None:
    torch.manual_seed(0)
    embeddings = PretrainingModel().clip.vision_model.embeddings
    assert torch.equal(embeddings.position_embedding.weight[1:], sine_places(8, 128))
    assert embeddings.position_embedding.weight[0].abs().max() < 0.2


def test_losses_start_at_chance() -> None:
    torch.manual_seed(0)
    pairs = DrawnPairs(VisionPretraining(steps=500, batch=2))
    pixels, ids = zip(*(pairs[index] for index in (500, 501, 502)), strict=True)
    with torch.no_grad():
        contrastive, captioning = PretrainingModel()(torch.stack(pixels), torch.stack(ids))
    assert abs(contrastive.item() - np.log(3)) < 0.5
    assert abs(captioning.item() - np.log(len(vocabulary()) + 3)) < 0.5


def test_two_steps_write_a_folder_that_transformers_reads(tmp_path: Path) -> None:
    out = tmp_path / "vision"
    figures = pretrain_vision(VisionPretraining(steps=2, batch=2), out)
    assert figures["step"] == 2
    assert figures.keys() == {"step", "contrastive_loss", "captioning_loss"}
    assert [path.name for path in tmp_path.iterdir()] == ["vision"]
    model = CLIPVisionModel.from_pretrained(out)
    for key, value in vision_config().to_dict().items():
        if key not in ("architectures", "dtype", "_name_or_path"):
            assert model.config.to_dict()[key] == value, key
    torch.manual_seed(0)
    untrained = dict(PretrainingModel().clip.vision_model.named_parameters())
    trained = dict(model.named_parameters())
    name = next(name for name in trained if name.endswith("patch_embedding.weight"))
    start = next(w for n, w in untrained.items() if n.endswith("patch_embedding.weight"))
    assert not torch.equal(trained[name], start)
    _check_processor(CLIPImageProcessorPil.from_pretrained(out), model)


def _check_processor(processor: CLIPImageProcessorPil, model: CLIPVisionModel) -> None:
    image = draw_image(draw_truth("world", 0, 1), 1)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    raw = np.asarray(image, dtype=np.float32) / 255
    wanted = (raw - np.asarray(CLIP_MEAN)) / np.asarray(CLIP_STD)
    assert np.allclose(pixels[0].numpy().transpose(1, 2, 0), wanted, atol=1e-4), "not resized"
    hidden = model(pixels, output_hidden_states=True).hidden_states
    assert len(hidden) == 5
    assert hidden[-2].shape == (1, 65, 128), "64 patches and the class token"
