"""How long a killed run takes to go on, over as many records as LLaVA-1.5 was tuned on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BOUND = 5.0
"""Seconds beside imports, the model and the saved state."""


@pytest.fixture
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("resume", ROOT / "benchmarks" / "resume.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_killed_run_over_665_000_records_goes_on_within_5_seconds(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    data = benchmark.write_data(tmp_path / "data", 665_000, 20_000)
    benchmark.write_encoder(tmp_path / "encoder")
    figures = benchmark.measure(benchmark.write_recipe(tmp_path, data, cached=True))
    # CPU seconds, which other programs on the machine do not lengthen.
    assert 0 < figures["cpu"]["rest"] < BOUND, figures
