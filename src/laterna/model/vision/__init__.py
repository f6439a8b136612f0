"""The vision tower: images in, patch features out, by the family of the encoder.

A family is one line in `FAMILIES`, by the exact `model_type` that config.json states.
"""

from __future__ import annotations

from laterna.model.vision.families import FAMILIES
from laterna.model.vision.tower import VisionTower, load_vision

__all__ = ["FAMILIES", "VisionTower", "load_vision"]
