from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from laterna.records import Box, Toy, Truth
from laterna.world.drawing import draw_image
from laterna.world.scenes import draw_truth
from laterna.world.toys import CATEGORIES, COLOURS, IMAGE_SIDE


def scene(
    category: str = "teddy bear",
    colour: str = "red",
    texture: str = "smooth",
    lighting: str = "bright",
    sign: str | None = None,
) -> Truth:
    """One large toy in the middle of the image, 42 pixels square."""
    low, high = 42 / IMAGE_SIDE, 84 / IMAGE_SIDE
    box = Box(category=category, x1=low, y1=low, x2=high, y2=high)
    sign_box = Box(category="sign", x1=0, y1=0, x2=42 / 112, y2=14 / 112) if sign else None
    toy = Toy(category=category, colour=colour, texture=texture, size="large", box=box)
    return Truth(
        id="0", image="0.png", lighting=lighting, sign=sign, sign_box=sign_box, toys=(toy,)
    )


def pixels(truth: Truth, noise_seed: int = 5) -> np.ndarray:
    return np.asarray(draw_image(truth, noise_seed), dtype=np.float32)


def painted(truth: Truth) -> np.ndarray:
    """The toy's pixels (n, 3): inside its box and not table."""
    table = np.median(pixels(truth)[:30, 80:].reshape(-1, 3), axis=0)
    inside = pixels(truth)[42:84, 42:84].reshape(-1, 3)
    return inside[np.abs(inside - table).sum(axis=1) > 60]


def test_same_scene_same_image() -> None:
    truth = draw_truth("world", 1, 4)
    image = draw_image(truth, 9)
    assert (image.size, image.mode) == ((IMAGE_SIDE, IMAGE_SIDE), "RGB")
    assert image.tobytes() == draw_image(truth, 9).tobytes()
    assert image.tobytes() != draw_image(truth, 10).tobytes(), "the noise differs"


@pytest.mark.parametrize("colour", COLOURS)
def test_a_large_smooth_bright_toy_has_its_nominal_colour(colour: str) -> None:
    mean = painted(scene(colour=colour)).mean(axis=0)
    distances = {
        name: float(np.linalg.norm(mean - np.asarray(tint))) for name, tint in COLOURS.items()
    }
    assert min(distances, key=distances.__getitem__) == colour
    assert distances[colour] < 80, "shading darkens light toys"


def test_every_category_is_drawn_and_looks_its_own() -> None:
    seen = {
        hashlib.sha256(pixels(scene(category)).tobytes()).hexdigest(): painted(scene(category))
        for category in CATEGORIES
    }
    assert len(seen) == len(CATEGORIES)
    assert min(len(shape) for shape in seen.values()) > 200, "of 1764 pixels"


def test_dim_is_darker_than_bright() -> None:
    bright, dim = pixels(scene(lighting="bright")), pixels(scene(lighting="dim"))
    assert dim.mean() == pytest.approx(0.55 * bright.mean(), rel=0.02)


def test_textures_leave_the_colour_and_change_the_surface() -> None:
    # The same noise in each: what differs between the images is the texture alone.
    smooth, rough, striped = (pixels(scene(texture=t)) for t in ("smooth", "rough", "striped"))
    difference = np.abs(smooth - striped).mean(axis=(1, 2))
    assert difference[:42].max() == difference[84:].max() == 0, "nothing outside the toy"
    assert difference[42:84].max() > 10
    assert difference[42:84].min() < 2, "between the stripes it is as smooth"
    assert np.abs(smooth - rough)[42:84, 42:84].mean() > 5
    assert striped[42:84, 42:84].mean() < smooth[42:84, 42:84].mean()


def test_a_sign_is_printed_where_its_box_is() -> None:
    plain, bank, hotel = (pixels(scene(sign=sign)) for sign in (None, "BANK", "HOTEL"))
    assert np.abs(plain - bank)[14:].max() == np.abs(plain - bank)[:, 42:].max() == 0
    assert bank[:14, :42].max() > 240, "white ground"
    assert bank[1:13, 1:41].min() < 80, "dark letters"
    assert np.abs(bank - hotel)[1:13, 1:41].mean() > 10, "other words look otherwise"


def test_a_scene_without_toys_is_a_table() -> None:
    empty = Truth(id="0", image="0.png", lighting="bright", sign=None, sign_box=None, toys=())
    table = draw_image(empty, 3)
    assert isinstance(table, Image.Image)
    assert np.asarray(table, dtype=np.float32).std(axis=(0, 1)).max() < 5, "noise alone"
