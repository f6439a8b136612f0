"""`laterna plan`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.cli import main


def test_plan_prints_its_tables_and_writes_the_same_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    command = ["plan", "nano", "--gpu", "L4", "--records", "500", "1000", "--out", str(out)]
    assert main([*command, "--instruct.global-batch-size", "8"]) == 0
    printed = capsys.readouterr().out
    assert "stage align" in printed
    assert "1,955,136" in printed
    closing = printed.splitlines()[-1]
    assert closing.startswith("planned align and instruct of nano: fits L4, ")
    assert closing.endswith(f"made {out}")
    plan = json.loads(out.read_text())
    assert plan["image_tokens"] == 64
    assert [stage["global_batch_size"] for stage in plan["stages"]] == [60, 8]
    assert [part["trained"] for part in plan["stages"][0]["parts"]] == [0, 61824, 0]


def test_records_are_one_number_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nano", "--records", "500"]) == 2
    assert "give one for each" in capsys.readouterr().err
