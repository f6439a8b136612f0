"""Files are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from laterna.files import write_atomically


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.txt"
    with write_atomically(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as aside:
        aside.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_folder_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "stale").write_text("stale")
    with write_atomically(path) as aside:
        aside.mkdir()
        (aside / "fresh").write_text("fresh")
        assert (path / "stale").exists()
    assert [item.name for item in path.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as aside:
        aside.mkdir()
        (aside / "new").write_text("new")
        raise ZeroDivisionError
    assert [item.name for item in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_file_of_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from laterna.files import write_atomically\n"
        "with write_atomically(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "src")}
    writer = subprocess.run(
        [sys.executable, "-c", script, str(path)], env=environment, check=False, timeout=60
    )
    assert writer.returncode == -signal.SIGKILL
    assert not path.exists()
