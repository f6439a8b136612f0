from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from laterna.records import Box, Scene
from laterna.scenes.annotations import Problem, read_annotations, stream_scenes

SCENE = Scene(
    id="5",
    image="five.jpg",
    width=640,
    height=480,
    captions=("A dog.", "Ein Hörnchen."),
    boxes=(Box(category="dog", x1=0.1, y1=0.2, x2=0.3, y2=0.4),),
)
BARE = Scene(id="6", image="six.jpg", width=None, height=None, captions=("A cat.",), boxes=())


def write(path: Path, *scenes: Scene, packed: bool = False) -> Path:
    content = b"\n".join(map(msgspec.json.encode, scenes))
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_scene_lines_are_read_as_they_are(tmp_path: Path, packed: bool) -> None:
    found = read_annotations(write(tmp_path / "scenes.txt", SCENE, BARE, packed=packed))
    assert found.scenes == (SCENE, BARE)
    assert found.problems == ()


def test_what_is_read_can_be_written_and_read_again(coco_mini: Path, tmp_path: Path) -> None:
    scenes = read_annotations(coco_mini).scenes
    assert read_annotations(write(tmp_path / "scenes.jsonl", *scenes)).scenes == scenes


def test_scene_lines_are_checked(tmp_path: Path) -> None:
    boxes = (
        *SCENE.boxes,
        Box(category="dog", x1=0.1, y1=0.2, x2=1.3, y2=0.4),
        Box(category="dog", x1=0.1, y1=0.2, x2=0.1, y2=0.4),
        Box(category="cat", x1=-0.004, y1=0.2, x2=0.1, y2=1.004),
    )
    wrong = msgspec.structs.replace(SCENE, boxes=boxes, captions=("A dog.", " "))
    mute = msgspec.structs.replace(BARE, captions=())
    file = write(tmp_path / "scenes.jsonl", wrong, SCENE, mute)
    found = read_annotations(file)
    assert found.scenes == (
        msgspec.structs.replace(
            SCENE,
            captions=("A dog.",),
            boxes=(
                *SCENE.boxes,
                Box(category="dog", x1=0.1, y1=0.2, x2=1, y2=0.4),
                Box(category="cat", x1=0, y1=0.2, x2=0.1, y2=1),
            ),
        ),
    )
    assert [(problem.reason, problem.where) for problem in found.problems] == [
        ("caption without words", f"{file}: record 5"),
        ("box cut at the image's edge", f"{file}: record 5, box 2"),
        ("box of zero area", f"{file}: record 5, box 3"),
        ("image id given twice", f"{file}: record 5"),
        ("image without captions", f"{file}: record 6"),
    ]


def test_images_with_boxes_alone_are_kept_when_asked_for(tmp_path: Path) -> None:
    boxed = msgspec.structs.replace(SCENE, captions=())
    empty = msgspec.structs.replace(BARE, captions=())
    file = write(tmp_path / "scenes.jsonl", boxed, empty)
    problems: list[Problem] = []
    assert list(stream_scenes(file, None, problems, captionless=True)) == [boxed]
    assert problems == [Problem(reason="image without captions", where=f"{file}: record 6")]


def test_a_list_of_records_and_one_over_several_lines_are_read(tmp_path: Path) -> None:
    rows = [msgspec.to_builtins(scene) for scene in (SCENE, BARE)]
    file = tmp_path / "scenes.json"
    file.write_text(json.dumps(rows))
    assert read_annotations(file).scenes == (SCENE, BARE)
    file.write_text(json.dumps(rows[0], indent=2))
    assert read_annotations(file).scenes == (SCENE,)


def test_a_faulty_line_is_counted_and_named(tmp_path: Path) -> None:
    file = write(tmp_path / "scenes.jsonl", SCENE)
    lines = [b"[1]", b'{"id": ', b'{"id": "\xe9"}', b'{"id": 9, "image": null}', b"[" * 9999]
    file.write_bytes(b"\n".join([file.read_bytes(), *lines, msgspec.json.encode(BARE)]))
    found = read_annotations(file)
    assert found.scenes == (SCENE, BARE)
    assert [(problem.reason, problem.where) for problem in found.problems] == [
        ("entry that is no object", f"{file} line 2"),
        ("line that is no JSON", f"{file} line 3"),
        ("line that is no UTF-8", f"{file} line 4"),
        ("image without a file name", f"{file}: record 9"),
        ("line that is no JSON", f"{file} line 6"),
    ]


def test_the_contexts_of_gpt4_are_read(contexts_file: Path) -> None:
    found = read_annotations(contexts_file.with_name("gpt4_contexts.jsonl"))
    assert found.problems == ()
    assert found.scenes[0].id == "000000018476"
    assert [box.category for box in found.scenes[0].boxes] == ["tie", "bed"]
    assert found.scenes[0].boxes[0] == Box(category="tie", x1=0.457, y1=0.09, x2=0.853, y2=0.984)
