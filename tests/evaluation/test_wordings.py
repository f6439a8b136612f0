"""The examiner takes neither its truth nor its words from a teacher."""

from __future__ import annotations

import string
from pathlib import Path

import laterna.evaluation
from laterna.evaluation.tasks import wordings

FIELDS = {"a_thing", "thing", "things", "colour", "place", "relation", "other"}


def test_nothing_in_evaluation_knows_the_teachers_or_their_checks() -> None:
    folder = Path(laterna.evaluation.__path__[0])
    paths = [path for path in folder.rglob("*.py") if path.name != "judge.py"]  # it asks one
    sources = [path.read_text(encoding="utf-8") for path in paths]
    assert len(sources) > 5
    assert not any("synthesis.teachers" in source for source in sources)
    assert not any("synthesis.checks" in source for source in sources)


def test_every_wording_is_a_question_with_known_fields() -> None:
    pools = {name: value for name, value in vars(wordings).items() if name.endswith("_QUESTIONS")}
    assert len(pools) == 10
    for pool in pools.values():
        assert len(set(pool)) == len(pool) >= 2
        for wording in pool:
            fields = {field for _, field, _, _ in string.Formatter().parse(wording) if field}
            assert wording.endswith("?")
            assert fields and fields <= FIELDS
