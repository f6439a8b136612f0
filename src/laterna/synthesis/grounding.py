"""Holds a teacher's words against what it was shown."""

from __future__ import annotations

from laterna.records import Scene
from laterna.synthesis.object_words import ObjectWords


def unsupported_objects(text: str, scene: Scene, words: ObjectWords) -> tuple[str, ...]:
    """Return the categories that a text names and that neither boxes nor captions hold."""
    held = {box.category for box in scene.boxes}
    for caption in scene.captions:
        held |= words.categories(caption)
    return tuple(sorted(words.categories(text) - held))
