"""JSON is cut into rows wherever its windows happen to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laterna.data.sources import json_files
from laterna.data.sources.json_files import json_lines, json_list
from laterna.errors import LaternaError

VALUES = st.recursive(
    st.text(alphabet='ab}]{[,: "\\é\n', max_size=8) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a}],"', max_size=3), inner)
    ),
    max_leaves=6,
)


def rows_of(path: Path) -> list[object]:
    return [json.loads(row) for chunk in json_list(path) for row in chunk.json]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.fixed_dictionaries({"id": VALUES}), max_size=12),
    window=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_a_list_is_cut_into_its_items(
    rows: list[object], window: int, indent: int | None, ascii_only: bool, tmp_path: Path
) -> None:
    path = tmp_path / "list.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_text(f" \n{text}\n ", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "WINDOW", window)
        assert rows_of(path) == rows


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('[{"a": 1}, {"a": 2}, {"a": ', 2),
        ('[{"a": 1}, {"a": 2} {"a": 3}]', 1),
        ('[{"a": 1}, {"a": 2}] x', 1),
        ('[{"a": 1}, {"a": b}, {"a": 3}, {"a": 4}]', 1),
        ('[{"a": 1}', 0),
        ("[", 0),
    ],
)
@pytest.mark.parametrize("window", [7, 1 << 20])
def test_what_is_broken_is_placed(
    text: str, good: int, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "WINDOW", window)
    monkeypatch.setattr(json_files, "CHUNK_ROWS", 1)
    path = tmp_path / "list.json"
    path.write_text(text)
    rows: list[object] = []
    with pytest.raises(LaternaError, match=f"not a JSON list of records after row {good}"):
        rows.extend(chunk.json for chunk in json_list(path))
    chunks = json_list(path)
    assert [json.loads(next(chunks).json[0]) for _ in range(good)] == [{"a": 1}, {"a": 2}][:good]


def test_a_row_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "WINDOW", 16)
    monkeypatch.setattr(json_files, "MAX_ROW", 100)
    path = tmp_path / "list.json"
    path.write_text('[{"a": 1}, {"a": "' + "x" * 5000)
    with pytest.raises(LaternaError, match="after row 1"):
        list(json_list(path))


def test_rows_are_numbered_from_one_over_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "CHUNK_ROWS", 2)
    path = tmp_path / "lines"
    path.write_text("".join(f'{{"a": {number}}}\n' for number in range(5)))
    assert [(chunk.first, len(chunk.json)) for chunk in json_lines(path)] == [
        (1, 2),
        (3, 2),
        (5, 1),
    ]
