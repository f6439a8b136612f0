"""JSON is cut into rows wherever its windows happen to end."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laterna.data.sources import json_files
from laterna.data.sources.json_files import json_chunks, json_rows
from laterna.errors import LaternaError

VALUES = st.recursive(
    st.text(alphabet='ab}]{[,: "\\é\n', max_size=8) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a}],"', max_size=3), inner)
    ),
    max_leaves=6,
)


def rows_of(path: Path) -> list[object]:
    return [json.loads(text) for _, text in json_rows(path)]


LAYOUTS = {
    "a list": "[{}]".format,
    "a list, with a comma too many": "[{} , ]".format,
    "after comments": "// mine\n/* [ */ # \n[{}]".format,
    "one behind another": str,
}


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.fixed_dictionaries({"id": VALUES}), min_size=1, max_size=12),
    window=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
    layout=st.sampled_from([*LAYOUTS]),
    coding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "gzip"]),
)
def test_every_layout_is_cut_into_its_rows(
    rows: list[object],
    window: int,
    indent: int | None,
    ascii_only: bool,
    layout: str,
    coding: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "list.json"
    texts = [json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in rows]
    joined = ("\n" if layout == "one behind another" else " ,\n").join(texts)
    text = f"{LAYOUTS[layout](joined)}\n "
    content = gzip.compress(text.encode()) if coding == "gzip" else text.encode(coding)
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "WINDOW", window)
        assert rows_of(path) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": 2},\n {"a": ', "line 3: row 3, which begins here, has no end"),
        ('[{"a": 1}, {"a": 2}\n\n{"a": 3}]', "line 3: a comma is missing behind row 2"),
        ('[{"a": 1}, {"a": 2}] x', "line 1: something stands behind the list's end: b'x'"),
        ('[{"a": 1}\n', "line 2: the list has no end behind row 1"),
        ("[", "line 1: the list has no end behind row 0"),
        ("[{},,{}]", "line 1: row 2, which begins here, cannot begin with b','"),
        ('[{"a": "x\n}]\n', "line 1: row 1, which begins here, has no end"),
    ],
)
@pytest.mark.parametrize("window", [7, 1 << 20])
def test_what_is_broken_is_placed(
    text: str, message: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "WINDOW", window)
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(LaternaError) as error:
        rows_of(path)
    assert str(error.value) == f"{path}: {message}"


def test_a_bad_row_of_a_list_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('[{"a": 1},\n {"a": b}, 3,\n {"a": 4}]')
    assert list(json_rows(path)) == [
        (1, b'{"a": 1}'),
        (2, b'{"a": b}'),
        (2, b"3"),
        (3, b'{"a": 4}'),
    ]


@pytest.mark.parametrize("bad", ['{"a": "x}', '{"a":', "no json", '{"a": 1'])
def test_a_bad_line_costs_itself_alone(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for rows in ([bad, '{"a": 2}', '{"a": 3}'], ['{"a": 2}', bad, '{"a": 3}']):
        path.write_text("\n".join(rows) if rows[0][0] == "{" else "# mine\n" + "\n".join(rows))
        if rows[0] != "no json":
            assert [text.decode() for _, text in json_rows(path)] == rows


def test_lines_with_commas_comments_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1},\r\n\r\n// no row\r\n{"a": 2},\r\n')
    assert list(json_rows(path)) == [(1, b'{"a": 1}'), (4, b'{"a": 2}')]


def test_a_row_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "WINDOW", 16)
    monkeypatch.setattr(json_files, "MAX_ROW", 100)
    path = tmp_path / "list.json"
    path.write_text('[{"a": 1}, {"a": "' + "x" * 5000)
    with pytest.raises(LaternaError, match="row 2, which begins here, has no end"):
        list(json_rows(path))
    path.write_text('{"a": 1}\n{"a": "' + "x" * 5000)
    with pytest.raises(LaternaError, match="line 2 is longer than 100 bytes"):
        list(json_rows(path))


def test_what_is_no_text_and_no_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes('[{"a": 1}]'.encode("utf-16") + b"\0\xd8")
    with pytest.raises(LaternaError, match=r"list\.json: not valid text: "):
        list(json_rows(path))
    path.write_bytes(gzip.compress(b'[{"a": 1}]' * 90)[:-20])
    with pytest.raises(LaternaError, match=r"list\.json: broken gzip: "):
        list(json_rows(path))


def test_rows_are_numbered_from_one_over_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "CHUNK_ROWS", 2)
    path = tmp_path / "lines"
    path.write_text("".join(f'{{"a": {number}}}\n' for number in range(5)))
    assert [(chunk.first, chunk.lines) for chunk in json_chunks(path)] == [
        (1, (1, 2)),
        (3, (3, 4)),
        (5, (5,)),
    ]
