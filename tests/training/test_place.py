"""One run at a time in a folder, and no other run's checkpoint lost."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from laterna import files
from laterna.errors import LaternaError
from laterna.files import held
from laterna.model.checkpoint import read_manifest
from laterna.recipe import Recipe, StageSettings
from laterna.training.run import train


@pytest.fixture
def short(recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(recipe, align=msgspec.structs.replace(recipe.align, max_steps=1))


def with_stage(recipe: Recipe, **changes: object) -> Recipe:
    stage: StageSettings = msgspec.structs.replace(recipe.align, **changes)
    return msgspec.structs.replace(recipe, align=stage)


def test_a_folder_in_which_another_run_is_at_work_is_left_to_it(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_WAIT", 0.1)
    out = tmp_path / "out"
    with (
        held(out, "training of stage align"),
        pytest.raises(LaternaError, match=r"another run: .* stage align \(process \d+ on"),
    ):
        train(short, stage="align", out=out)
    assert not out.exists()
    train(short, stage="align", out=out)
    assert not list(tmp_path.glob(".*"))


def test_what_differs_from_the_checkpoint_that_stands_there_is_named(
    short: Recipe, tmp_path: Path
) -> None:
    out = train(short, stage="align", out=tmp_path / "out")
    written = (out / "laterna.json").stat().st_mtime_ns
    other = with_stage(
        short,
        global_batch_size=5,
        connector=msgspec.structs.replace(short.align.connector, lr=0.5),
    )
    for given, words in (
        (other, r"align\.global_batch_size 4, now 5, align\.connector\.lr 0\.01, now 0\.5;"),
        (msgspec.structs.replace(short, name="x"), r"what differs: name 'tiny', now 'x'; "),
    ):
        with pytest.raises(LaternaError, match=words):
            train(given, stage="align", out=out)
    with pytest.raises(LaternaError, match="which would be lost; what differs: stage align"):
        train(short, stage="instruct", out=out, init_from=None)
    rows = json.loads((tmp_path / "records.json").read_text())
    (tmp_path / "records.json").write_text(json.dumps(rows[:-1]))
    with pytest.raises(LaternaError, match="what differs: the data, or what it started from"):
        train(short, stage="align", out=out)
    assert (out / "laterna.json").stat().st_mtime_ns == written
    assert read_manifest(train(other, stage="align", out=out, overwrite=True)).recipe == other


def test_a_folder_that_is_not_a_checkpoint_is_refused_before_anything_is_read(
    short: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(LaternaError, match=r"not Laterna's checkpoint: .* thesis\.tex"):
            train(short, stage="align", out=out, overwrite=overwrite)
    assert (out / "thesis.tex").read_text() == "precious"
    assert not (tmp_path / "prepared").exists()


def test_rows_shorter_than_any_record_are_refused(short: Recipe, tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"align\.pack_length = 5: shorter .* has \d+ tokens"):
        train(with_stage(short, pack_length=5), stage="align", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nowhere", None, "no such checkpoint or file of weights; give one of them"),
        ("text.txt", b"a cup", "not read, because it is damaged or holds more than tensors"),
        ("empty.safetensors", b"", "weights"),
        ("laterna.json", b"{}", "holds no weights: it is JSON"),
        ("captions.json", b'\n[{"id": 1}]', "holds no weights: it is JSON"),
        ("page.safetensors", b"<!doctype html>", "holds no weights: it is a web page or XML"),
        ("cup.bin", b"\x89PNG\r\n\x1a\n" + bytes(40), "holds no weights: it is an image"),
        ("folder", "", "not a Laterna checkpoint"),
    ],
)
def test_a_start_that_is_none_is_one_sentence_before_anything_is_prepared(
    short: Recipe, tmp_path: Path, name: str, content: bytes | str | None, words: str
) -> None:
    start = tmp_path / "starts" / name
    start.parent.mkdir()
    if isinstance(content, bytes):
        start.write_bytes(content)
    elif content is not None:
        start.mkdir()
    with pytest.raises(LaternaError, match=rf"{name}: .*{words}"):
        train(short, stage="align", out=tmp_path / "out", init_from=start)
    assert not (tmp_path / "prepared").exists()


def test_records_that_are_not_there_are_said_before_a_model_is_read(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laterna.training.setup.begin", lambda *_: pytest.fail("read a model"))
    for changes in ({"data": "none.json"}, {"images": "none"}):
        with pytest.raises(LaternaError, match=r"none(\.json)?: no such file or folder"):
            train(with_stage(short, **changes), stage="align", out=tmp_path / "out")
