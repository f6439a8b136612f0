"""Fitting: the squares and tiles an encoder sees, normalized as it was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil

from laterna.data.images.fitting import ImagePreparer, blank, pad_to_square
from laterna.errors import LaternaError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def processor_of(side: int) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def halves(width: int, height: int) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    ImageDraw.Draw(image).rectangle((width // 2, 0, width, height), fill=BLUE)
    return image


def test_padding_is_centred_and_of_the_mean_colour() -> None:
    preparer = ImagePreparer(processor_of(8), "pad")
    assert preparer.mean_colour == (122, 116, 104)
    square = pad_to_square(halves(8, 3), preparer.mean_colour)
    assert square.size == (8, 8)
    rows = np.asarray(square)
    assert (rows[:2] == preparer.mean_colour).all()
    assert (rows[5:] == preparer.mean_colour).all()
    assert (rows[2:5] == np.asarray(halves(8, 3))).all()
    tall = np.asarray(pad_to_square(halves(2, 7), (1, 2, 3)))
    assert (tall[:, 2:4] == np.asarray(halves(2, 7))).all()


def test_pixels_are_normalized_by_mean_and_deviation() -> None:
    processor = processor_of(4)
    preparer = ImagePreparer(processor, "resize")
    pixels = preparer([halves(4, 4), Image.new("RGB", (9, 5), BLUE)])
    assert pixels.shape == (2, 3, 4, 4)
    assert pixels.dtype == torch.float32
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    torch.testing.assert_close(pixels[0, :, 0, 0], (red - mean) / std)
    torch.testing.assert_close(pixels[0, :, 3, 3], (blue - mean) / std)
    torch.testing.assert_close(pixels[1, :, 2, 2], (blue - mean) / std)


def test_nothing_is_cropped() -> None:
    wide = ImagePreparer(processor_of(8), "resize")([halves(64, 8)])
    assert wide[0, 0, 4, 0] > 1.5, "the left end, red, must still be there"
    assert wide[0, 2, 4, 7] > 1.5, "the right end, blue, must still be there"


def test_size_is_what_the_processor_itself_would_make() -> None:
    cropping = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 12, "width": 12}
    )
    assert ImagePreparer(cropping, "pad").size == 12
    whole = CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False)
    assert ImagePreparer(whole, "pad").size == 16
    oblong = CLIPImageProcessorPil(size={"height": 16, "width": 20}, do_center_crop=False)
    with pytest.raises(LaternaError, match="needs square ones"):
        ImagePreparer(oblong, "pad")


def test_no_images_are_no_rows() -> None:
    assert ImagePreparer(processor_of(8), "pad")([]).shape == (0, 3, 8, 8)


def test_blank_is_the_mean_colour_all_over() -> None:
    preparer = ImagePreparer(processor_of(8), "pad")
    assert preparer.blank(9, 3).getcolors() == [(27, (122, 116, 104))]
    pixels = preparer([preparer.blank(9, 3)])
    assert pixels.abs().max() < 0.02
    assert torch.equal(pixels, preparer([preparer.blank(8, 8)])), "its size changes nothing here"
    assert blank((3, 2)).size == (3, 2)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("image_mean", "x", "three numbers are needed, one a colour"),
        ("image_mean", [0.5, 0.5], "three numbers are needed, one a colour"),
        ("image_mean", [0.5, 0.5, float("nan")], "three numbers are needed, one a colour"),
        ("image_std", [0.5, 0.5, 0.0], "three numbers are needed, above 0, one a colour"),
        ("resample", 99, "give one of Pillow's, such as 3"),
    ],
)
def test_settings_with_which_nothing_can_be_prepared(name: str, value: object, said: str) -> None:
    processor = CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False)
    setattr(processor, name, value)
    with pytest.raises(LaternaError, match=rf"{name} = .*preprocessor_config.json: {said}"):
        ImagePreparer(processor, "pad")
