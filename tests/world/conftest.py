"""One small world, drawn once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from laterna.world.dataset import write_world


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 10 to 309 of the world of seed 6."""
    folder = tmp_path_factory.mktemp("world") / "small"
    write_world(folder, images=300, seed=6, start=10)
    return folder
