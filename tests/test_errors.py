from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from laterna.errors import LaternaError, one_line, told


def failing(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LaternaError("box.json: empty"), "laterna: box.json: empty\n"),
        (FileNotFoundError(2, "No such file", "gone.json"), "laterna: gone.json: No such file\n"),
        (OSError(28, "No space left on device"), "laterna: disk: No space left on device\n"),
    ],
)
def test_what_can_be_corrected_is_2(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(failing(error)) == 2
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [KeyError("a mistake of ours"), OSError("of no file")])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)):
        told(failing(error))


def test_work_that_ends_well_is_0(tmp_path: Path) -> None:
    assert told(lambda: (tmp_path / "made").write_text("x")) == 0
    assert (tmp_path / "made").read_text() == "x"


def test_an_error_of_many_lines_becomes_one_of_bounded_length() -> None:
    assert one_line(ValueError("not read:\n\tan\n  end"), 12) == "not read: an"
    assert one_line(ValueError("x" * 1000)) == "x" * 300
