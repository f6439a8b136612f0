"""Laterna: from boxes and captions to your own visual assistant.

The names below are the Python API. Each is imported when it is first used, so `import laterna` does
not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from laterna.errors import LaternaError
from laterna.recipe import Recipe, load_recipe
from laterna.records import (
    Answer,
    Batch,
    Box,
    InstructionRecord,
    Pack,
    Question,
    Sample,
    Scene,
    Score,
    Turn,
)
from laterna.version import __version__

if TYPE_CHECKING:
    from laterna.data.masking import tokenize
    from laterna.evaluation.run import evaluate
    from laterna.inference.assistant import Assistant, load
    from laterna.scenes.annotations import read_scenes
    from laterna.synthesis.checks import check
    from laterna.training.run import train

__all__ = [
    "Answer",
    "Assistant",
    "Batch",
    "Box",
    "InstructionRecord",
    "LaternaError",
    "Pack",
    "Question",
    "Recipe",
    "Sample",
    "Scene",
    "Score",
    "Turn",
    "__version__",
    "check",
    "evaluate",
    "load",
    "load_recipe",
    "read_scenes",
    "tokenize",
    "train",
]

_LATE = {
    "Assistant": ("laterna.inference.assistant", "Assistant"),
    "check": ("laterna.synthesis.checks", "check"),
    "evaluate": ("laterna.evaluation.run", "evaluate"),
    "load": ("laterna.inference.assistant", "load"),
    "read_scenes": ("laterna.scenes.annotations", "read_scenes"),
    "tokenize": ("laterna.data.masking", "tokenize"),
    "train": ("laterna.training.run", "train"),
}
"""Name to its module and its name there, for those that would make `import laterna` slow."""


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module 'laterna' has no attribute '{name}'")
    module, attribute = _LATE[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """List the API, names not imported yet included."""
    return sorted(__all__)
