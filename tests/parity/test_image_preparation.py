"""Prepared images are those of transformers' own processors, to one grey level."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from laterna.data.images.fitting import ImagePreparer

MADE = [(1, 1), (2, 97), (97, 2), (224, 225), (335, 337), (336, 336), (641, 427), (31, 400)]


def photos() -> Iterator[Image.Image]:
    """Photographs of scikit-image, cut to odd sizes, and noise of made ones."""
    astronaut, coffee = skimage_data.astronaut(), skimage_data.coffee()
    for pixels in (astronaut[:301], astronaut[:, :255], coffee, coffee[7:, 11:]):
        yield Image.fromarray(pixels)
    yield Image.fromarray(skimage_data.chelsea())
    random = np.random.default_rng(0)
    for width, height in MADE:
        yield Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("side", [224, 336])
def test_padding_agrees_with_llavas_processor(side: int) -> None:
    theirs = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    ours = ImagePreparer(clip(side), "pad")
    grey_level = 1 / 255 / min(theirs.image_std)
    for photo in photos():
        expected = theirs([photo], return_tensors="pt")["pixel_values"]
        assert (ours([photo]) - expected).abs().max() <= grey_level + 1e-6, photo.size


def test_cropping_agrees_with_clips_processor() -> None:
    theirs = clip(224)
    ours = ImagePreparer(theirs, "crop")
    for photo in photos():
        expected = theirs([photo], return_tensors="pt")["pixel_values"]
        assert (ours([photo]) - expected).abs().max() == 0, photo.size


def test_stretching_agrees_with_siglips_processor() -> None:
    theirs = SiglipImageProcessorPil(size={"height": 224, "width": 224})
    ours = ImagePreparer(theirs, "resize")
    for photo in photos():
        expected = theirs([photo], return_tensors="pt")["pixel_values"]
        assert (ours([photo]) - expected).abs().max() == 0, photo.size


def clip(side: int) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
