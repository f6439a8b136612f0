"""LLaVA-1.5's 665,298 records are read and prepared in memory that their number does not change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PEAK = Path(__file__).with_name("peak.py")
MIX_665K = 665_298
GROWN, GROWN_WORKER = 256, 64
"""MiB by which peaks may grow; measured on 2026-11-24: 162 for the process that reads."""
SMALL = 8_192
"""Enough for the workers to be started."""


def write_set(path: Path, records: int) -> None:
    """Write LLaVA rows of two exchanges, of about 370 bytes, as one JSON list."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(records):
            said = f"There are {number} red cups beside the small dog on the wooden table. " * 2
            turns = [
                {"from": "human", "value": "<image>\nWhat is on the table?"},
                {"from": "gpt", "value": said},
                {"from": "human", "value": "How many cups?"},
                {"from": "gpt", "value": str(number)},
            ]
            row = {"id": number, "image": f"{number // 4}.jpg", "conversations": turns}
            file.write(",\n" * bool(number) + json.dumps(row))
        file.write("]")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_665k_records_are_prepared_in_bounded_memory(tmp_path: Path) -> None:
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    write_set(small, SMALL)
    write_set(large, MIX_665K)
    assert large.stat().st_size > 200 << 20
    told = subprocess.run(
        [sys.executable, str(PEAK), str(small), str(large), str(tmp_path / "prepared"), "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(told.stdout)
    assert found["records"] == MIX_665K
    name, length, own = found["last"]
    assert (name, length) == (str(MIX_665K - 1), own)
    # Pages of the mapped Arrow files count too; as records alone they would be above a gigabyte.
    assert found["grown"] < GROWN
    assert found["worker"] < GROWN_WORKER, found
