"""benchmarks/gpu.sh runs from end to end on tiny models, and writes down all of its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {
    "matmul",
    "laterna_align",
    "laterna_instruct",
    "generation",
    "trainer_align",
    "trainer_instruct",
}


@pytest.mark.slow
def test_all_parts_are_measured_and_written(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--tiny", "--out", str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHON": sys.executable})
    [path] = tmp_path.glob("*-gpu-tiny.json")
    found = json.loads(path.read_text())
    measured = {name for name, one in found.items() if isinstance(one, dict)} - {"machine", "size"}
    assert measured == PARTS
    assert [name for name in PARTS if "not_measured" in found[name]] == []
    for stage in ("align", "instruct"):
        ours, theirs = found[f"laterna_{stage}"], found[f"trainer_{stage}"]
        assert ours["tokens_per_second"] > 0
        assert theirs["tokens_per_second"] > 0
        assert ours["flops_a_step"] > 0
        assert ours["planned_bytes"] > 0
        # Random words of 251: a loss near the logarithm of their number.
        assert all(5 < loss < 6 for loss in ours["losses"])
    assert found["generation"]["requests_2"]["new_tokens_per_second"] > 0


def test_without_a_gpu_the_whole_run_is_refused(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path)]
    source = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=source)
    assert done.returncode == 1
    assert "--tiny tries the script on a CPU" in done.stderr
    assert list(tmp_path.iterdir()) == []
