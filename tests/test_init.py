"""The Python face: its names are there, and reaching for it does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import laterna

SRC = Path(__file__).parent.parent / "src"
HEAVY = {"torch", "transformers", "numpy", "matplotlib", "PIL"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after the statement."""
    script = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["laterna", "laterna.cli"])
def test_importing_does_not_import_anything_heavy(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert "laterna" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("name", laterna.__all__)
def test_every_name_of_the_face_is_there(name: str) -> None:
    assert getattr(laterna, name) is not None
    assert name in dir(laterna)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        laterna.lode  # noqa: B018
