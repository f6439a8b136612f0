from __future__ import annotations

import pytest

from laterna.errors import LaternaError
from laterna.scenes.survey import Survey
from laterna.synthesis.teachers import TEACHERS, make_teacher
from laterna.synthesis.teachers.scribe import Scribe


def test_teachers_are_found_by_exact_name() -> None:
    assert sorted(TEACHERS) == ["scribe"]
    assert isinstance(make_teacher("scribe", "detail", Survey(("dog",)), 0), Scribe)


@pytest.mark.parametrize("name", ["Scribe", "scribe ", "gpt-4", ""])
def test_an_unknown_teacher_lists_the_known(name: str) -> None:
    with pytest.raises(LaternaError, match=r"unknown teacher '.*'; known are: scribe"):
        make_teacher(name, "detail", Survey(("dog",)), 0)
