from __future__ import annotations

import pytest

from laterna.errors import LaternaError
from laterna.model.sources import BUILTIN, resolve


def test_shipped_names_become_folders_and_all_else_stays() -> None:
    assert resolve("builtin:nano-vit") == str(BUILTIN["nano-vit"])
    assert resolve("openai/clip-vit-large-patch14") == "openai/clip-vit-large-patch14"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(LaternaError, match="builtin:nano-vit, builtin:nano-llama"):
        resolve("builtin:giant")
