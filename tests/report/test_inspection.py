"""One pass over a finished set: what is counted, checked again, drawn by lot and kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.recipe import SourceSettings
from laterna.records import Finding, Verdict
from laterna.report.inspection import Reservoir, Tally, inspect_set
from laterna.scenes.annotations import read_scenes
from laterna.synthesis.builder import Reject

CONTEXT = {
    "id": "7",
    "image": "7.jpg",
    "captions": ["A black cat sits on a mat."],
    "instances": [{"category": "cat", "bbox": [0.1, 0.1, 0.9, 0.9]}],
}


def row(name: str, question: str, answer: str, image: str = "7.jpg") -> dict[str, object]:
    return {
        "id": name,
        "image": image,
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": answer},
        ],
    }


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    path = tmp_path / "set.json"
    rows = [
        row("good", "What colour is the cat?", "The cat is black."),
        row("bad", "What is in the image?", "There is an elephant beside the cat."),
        row("elsewhere", "Is it bright?", "Yes.", image="8.jpg"),
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    path = tmp_path / "contexts.jsonl"
    path.write_text(json.dumps(CONTEXT) + "\n", encoding="utf-8")
    return path


def test_without_annotations_only_the_shares_are_counted(finished: Path) -> None:
    found = inspect_set(SourceSettings(data=str(finished)), specimens=2)
    assert (found.coverage.records, found.coverage.with_proxy) == (3, 0)
    assert (found.annotated, found.checked, found.found, found.rejects) == (False, 0, (), None)
    assert len(found.specimens) == 2
    assert found.specimens[0].verdict is None


def test_with_annotations_every_record_is_held_against_them(
    finished: Path, contexts: Path, tmp_path: Path
) -> None:
    (tmp_path / "7.jpg").touch()
    found = inspect_set(
        SourceSettings(data=str(finished)), scenes=read_scenes(contexts), images=tmp_path
    )
    assert (found.coverage.records, found.coverage.with_proxy, found.checked) == (3, 2, 2)
    assert found.unknown_proxies == (("image not annotated", 1),)
    assert [(reason.name, reason.count) for reason in found.found] == [("absent object", 1)]
    (example,) = found.found[0].examples
    assert example.record == "bad"
    assert "elephant" in example.finding.sentence
    good, bad, elsewhere = found.specimens
    assert good.verdict is not None and good.verdict.accepted
    assert bad.verdict is not None and not bad.verdict.accepted
    assert good.proxy is not None and good.proxy.channels == ("caption", "", "box")
    assert good.image == tmp_path / "7.jpg"
    assert [box.category for box in good.boxes] == ["cat"]
    assert (elsewhere.image, elsewhere.proxy, elsewhere.verdict) == (None, None, None)


def test_the_rejects_of_a_run_are_counted_by_reason(finished: Path, tmp_path: Path) -> None:
    twice = (Finding(reason="truncated", sentence="a"), Finding(reason="truncated", sentence="b"))
    other = (Finding(reason="wrong count", sentence="c"), *twice)
    rejects = [
        Reject(id=f"{number}", kind="detail", ledger_key=None, verdict=Verdict(findings=findings))
        for number, findings in enumerate([twice, other])
    ]
    path = tmp_path / "rejects.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(reject) + b"\n" for reject in rejects))
    found = inspect_set(SourceSettings(data=str(finished)), rejects=path).rejects
    assert found is not None
    assert [(reason.name, reason.count) for reason in found] == [
        ("truncated", 2),
        ("wrong count", 1),
    ]
    assert [example.finding.sentence for example in found[0].examples] == ["a", "a"]


def test_rejects_that_are_none_are_named(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(LaternaError, match=r"rejects\.jsonl: line 1: not a rejected reply"):
        inspect_set(SourceSettings(data=str(finished)), rejects=path)
    with pytest.raises(LaternaError, match="cannot be read"):
        inspect_set(SourceSettings(data=str(finished)), rejects=tmp_path / "none.jsonl")


def test_the_sample_is_drawn_evenly_and_comes_in_order(finished: Path) -> None:
    record = inspect_set(SourceSettings(data=str(finished))).specimens[0].record
    drawn: list[int] = []
    for seed in range(200):
        sample = Reservoir(3, seed)
        for number in range(30):
            sample.add(msgspec.structs.replace(record, id=str(number)))
        numbers = [int(found.id) for found in sample.records()]
        assert numbers == sorted(set(numbers))
        drawn += numbers
    assert len(drawn) == 600
    assert 150 < sum(number < 10 for number in drawn) < 250  # 200 ± 4 standard deviations


def test_a_tally_keeps_few_examples() -> None:
    tally = Tally()
    for number in range(9):
        tally.add(str(number), [Finding(reason="truncated", sentence="x")])
    (reason,) = tally.reasons()
    assert (reason.count, [example.record for example in reason.examples]) == (9, ["0", "1", "2"])


def test_rows_that_are_no_records_are_counted_and_told(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cup."}]
    rows = [
        {"id": 1, "conversations": said},
        {"id": 2, "conversations": said, "video": "a.mp4"},
        {"id": 3, "conversations": [said[0], {"from": "gpt", "value": ""}]},
        {"id": 4, "conversations": said, "video": "b.mp4"},
    ]
    path = tmp_path / "set.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    found = inspect_set(SourceSettings(data=str(path)))
    assert found.coverage.records == 1
    assert found.refused == (
        (
            "an answer is empty",
            1,
            "record 3 (line 1): an answer that is to be learned has no words",
        ),
        (
            "asks about a video",
            2,
            "record 2 (line 1): the key `video` says that this row asks about a video",
        ),
    )


@pytest.mark.parametrize("name", ["../out.png", "{}/out.png", "pipe"])
def test_the_page_shows_no_image_from_outside_and_opens_no_pipe(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (tmp_path / "out.png").write_bytes(b"")
    said = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A cup."}]
    row = {"id": 1, "image": name.format(tmp_path), "conversations": said}
    path = tmp_path / "set.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    (specimen,) = inspect_set(SourceSettings(data=str(path)), images=folder).specimens
    assert specimen.image is None
