"""An assistant with either of the connectors that others have too."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from laterna.model.assistant import Assistant, load_assistant_from
from laterna.recipe import ConnectorSettings, Recipe


@pytest.fixture(params=["linear", "mlp"])
def either(request: Any, tiny_recipe: Recipe) -> Assistant:
    settings = ConnectorSettings(kind=request.param)
    return load_assistant_from(msgspec.structs.replace(tiny_recipe, connector=settings))
