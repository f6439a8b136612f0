"""What is wrong with a benchmark's files is named, counted by reason, and never a traceback."""

from __future__ import annotations

import copy
import gzip
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from laterna.data.images.opening import MissingImageError, image_size, load_image
from laterna.errors import LaternaError
from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import Task, TaskQuestions, read_questions
from laterna.evaluation.tasks.images import find_image
from laterna.records import Question

Read = Callable[..., TaskQuestions]
Files = dict[str, dict[str, object]]


def annotation_files(files: Files, task: str) -> list[str]:
    return [name for name, content in files[task].items() if not isinstance(content, bytes)]


def test_each_missing_file_is_named_with_where_it_is_to_be_had(
    files: Files, write: Callable[..., Path]
) -> None:
    optional = {"llava_textvqa_val_v051_ocr.jsonl", "existence/1.txt"}
    optional |= {name for name in files["mme"] if name.endswith(".txt")}
    alone = {"coco_pope_random.json", "coco_pope_popular.json", "coco_pope_adversarial.json"}
    for task in files:
        for name in annotation_files(files, task):
            if name in optional | alone:
                continue
            folder = write(task)
            (folder / name).unlink()
            wanted = r"there is no .* in it; .*(https?://|eval\.zip)"
            with pytest.raises(LaternaError, match=wanted) as raised:
                read_questions(TASKS[task], folder)
            assert name.split("/")[-1].split("_")[0].lower() in str(raised.value).lower()
    with pytest.raises(LaternaError, match="no such folder"):
        read_questions(TASKS["gqa"], Path("/nowhere/at/all"))


def test_pope_without_any_set_and_mme_without_subtasks(
    tmp_path: Path, read: Read, write: Callable[..., Path]
) -> None:
    with pytest.raises(LaternaError, match=r"coco_pope_random\.json or .*AoiDragon.*--build"):
        read_questions(TASKS["pope"], tmp_path)
    with pytest.raises(LaternaError, match="no folder `existence`"):
        read_questions(TASKS["mme"], tmp_path)
    assert read("mme").skipped == {"subtask missing": 12}
    only = dict.fromkeys(("coco_pope_random.json", "coco_pope_popular.json"))
    assert {one.kind for one in read("pope", only).questions} == {"adversarial"}


def test_a_setting_that_needs_what_is_not_there(read: Read) -> None:
    without = {"llava_textvqa_val_v051_ocr.jsonl": None}
    with pytest.raises(LaternaError, match=r"no 'ocr' for it.*choose another setting"):
        read("textvqa", without)
    rosetta = {"data": [{"image_id": "f00", "ocr_tokens": ["ACME", "12"]}]}
    found = read("textvqa", without | {"TextVQA_Rosetta_OCR_v0.2_val.json": rosetta})
    assert "Reference OCR token: ACME, 12\n" in found.questions[0].text
    with pytest.raises(LaternaError, match=r"its settings are: llava-1\.5, no-ocr, question-only"):
        read("textvqa", setting="mine")


def test_rows_that_are_no_questions_are_counted_by_reason(files: Files, read: Read) -> None:
    rows = list(files["pope"]["coco_pope_random.json"])  # type: ignore[call-overload]
    good = rows[0]
    bad: list[Any] = [
        good,
        good | {"question_id": 10, "label": "maybe"},
        good | {"question_id": 11, "text": 5},
        good | {"question_id": 12, "text": None},
        {key: value for key, value in good.items() if key != "image"},
        good | {"question_id": 13, "image": "../../secret.jpg"},
        good | {"question_id": 14, "text": " "},
        good | {"question_id": 15, "text": "Is \ud800 there?"},
        good | {"question_id": float("nan")},
        [1, 2],
    ]
    found = read("pope", {"coco_pope_random.json": rows + bad})
    assert len(found.questions) == 12
    assert found.skipped == {
        "question id stands twice": 1,
        "label is neither yes nor no": 1,
        "row: Expected `str`, got `int` - at `$.text`": 1,
        "row: Expected `str`, got `null` - at `$.text`": 1,
        "row: Object missing required field `image`": 1,
        "image outside the folder": 1,
        "no words in the question": 1,
        "half a character, or NUL, in a text": 1,
        "row: Expected `int | str`, got `null` - at `$.question_id`": 1,
        "row: Expected `object`, got `array`": 1,
    }
    assert found.examples["label is neither yes nor no"] == "coco_pope_random.json, line 6"


def test_a_file_without_a_question_says_why(read: Read) -> None:
    unanswered = [{"image": "a.jpg", "question": "What?"}, {"image": "b.jpg"}]
    with pytest.raises(LaternaError, match=r"1 no reference .*; 1 row: Object missing .*line 1"):
        read("vizwiz", {"val.json": unanswered})
    with pytest.raises(LaternaError, match="there is no list 'data'"):
        read("docvqa", {"val_v1.0_withQT.json": {"questions": []}})
    with pytest.raises(LaternaError, match="is not JSON"):
        read("gqa", {"testdev_balanced_questions.json": "{"})
    with pytest.raises(LaternaError, match="no column 'index'"):
        read("mmbench", {"mmbench_dev_20230712.tsv": "question\tA\nx\ty\n"})
    people: dict[str, list[object]] = {"images": [], "annotations": [], "categories": []}
    foreign = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "others"}],
    }
    with pytest.raises(LaternaError, match=r"'others' .* is none of COCO's 80"):
        read("chair", {"instances_val2014.json": foreign})
    assert read("chair", {"instances_val2014.json": people}).questions == ()


def test_damaged_files_are_told(files: Files, write: Callable[..., Path]) -> None:
    for task in files:
        for name in annotation_files(files, task):
            folder = write(task)
            packed = bytearray(gzip.compress((folder / name).read_bytes()))
            packed[12:20] = b"\xff" * 8
            (folder / name).write_bytes(packed)
            try:
                found = read_questions(TASKS[task], folder)
            except LaternaError as error:
                assert name.split("/")[-1] in str(error)
            else:
                assert task == "mme"
                assert found.skipped["text that cannot be read"] == 1
            (folder / name).write_bytes(b'"\r \r"\0')
            with suppress(LaternaError):
                read_questions(TASKS[task], folder)


def test_ids_that_stand_twice_in_an_object(read: Read) -> None:
    row = '{"question": "What?", "imageId": "n1", "answer": "a"}'
    twice = '{"7": %s, "8": {"question": NaN}, "7": %s}' % (row, row)  # noqa: UP031
    found = read("gqa", {"testdev_balanced_questions.json": twice})
    assert [one.id for one in found.questions] == ["7"]
    assert found.skipped["question id stands twice"] == 1
    assert sum(found.skipped.values()) == 2


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_other_codings_give_the_same_questions(
    coding: str, files: Files, write: Callable[..., Path]
) -> None:
    for task in files:
        folder = write(task)
        plain = read_questions(TASKS[task], folder)
        for name in annotation_files(files, task):
            text = (folder / name).read_text("utf-8")
            (folder / name).write_bytes(text.encode(coding))
        again = read_questions(TASKS[task], folder)
        assert again == plain, task
        name = again.questions[0].images[0]
        assert TASKS[task].open_image(folder, name).height == 3


def test_files_as_llavas_folders_hold_them(read: Read, files: Files) -> None:
    nested = dict.fromkeys(files["pope"]) | {
        f"coco/{name}" if "pope" in name else name: content
        for name, content in files["pope"].items()
    }
    found = read("pope", nested)
    assert len(found.questions) == 12
    assert found.questions[0].images == ("coco/val2014/COCO_val2014_000000000001.jpg",)


def test_llavas_question_file_stands_for_vqav2s(read: Read) -> None:
    words = "Is it a dog?\nAnswer the question using a single word or phrase."
    image = "COCO_val2014_000000000042.jpg"
    row = {"question_id": 42000, "image": image, "text": words, "category": "default"}
    other = {"v2_OpenEnded_mscoco_val2014_questions.json": None}
    found = read("vqav2", other | {"llava_vqav2_mscoco_val2014.jsonl": [row]})
    assert [(one.id, one.text, one.images) for one in found.questions] == [
        ("42000", words, (f"val2014/{image}",))
    ]


def test_images_in_zips_and_in_other_places(tmp_path: Path, files: Files) -> None:
    image = files["gqa"]["images/n1.jpg"]
    assert isinstance(image, bytes)
    with zipfile.ZipFile(tmp_path / "val2014.zip", "w") as archive:
        archive.writestr("val2014/a.png", image)
        archive.writestr("b.png", image)
    for name in ("val2014/a.png", "coco/val2014/a.png", "val2014/b.png"):
        found = find_image(tmp_path, "images", name)
        assert found == image
        assert image_size(found, name) == (4, 3)
    deep = tmp_path / "data" / "images" / "n1.png"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(image)
    assert find_image(tmp_path, "images", "data/questions1.2/images/n1.png") == deep
    missing = find_image(tmp_path, "images", "val2014/c.png")
    assert missing == tmp_path / "val2014/c.png"
    with pytest.raises(MissingImageError):
        load_image(missing)
    (tmp_path / "a.png").write_bytes(image)
    assert find_image(tmp_path, "images", "anywhere/a.png") == tmp_path / "a.png"
    (tmp_path / "test.zip").write_bytes(b"no zip")
    with pytest.raises(LaternaError, match=r"test\.zip: not a zip file that can be read"):
        find_image(tmp_path, "images", "test/x.png")


def test_missing_images_are_told_with_where_they_are_to_be_had(
    write: Callable[..., Path],
) -> None:
    folder = write("gqa", {"images/n1.jpg": None})
    wanted = r"gqa/images/n1\.jpg: no such image; .*cs\.stanford\.edu"
    with pytest.raises(MissingImageError, match=wanted):
        TASKS["gqa"].image(folder, "images/n1.jpg")
    with pytest.raises(MissingImageError, match=r"val2014/x\.jpg: no such image; .*cocodataset"):
        TASKS["pope"].open_image(folder, "val2014/x.jpg")


def test_images_in_a_table(write: Callable[..., Path]) -> None:
    folder = write("mmbench")
    task = TASKS["mmbench"]
    widths = [
        task.open_image(folder, one.images[0]).width
        for one in read_questions(task, folder).questions
    ]
    assert widths == [7, 7, 8]  # the rotation says whose image it has
    with pytest.raises(MissingImageError, match="no row '9'"):
        task.open_image(folder, "mmbench_dev_20230712.tsv:9")
    path = folder / "mmbench_dev_20230712.tsv"
    path.write_text(path.read_text().replace("iVBOR", "iV*OR"))
    with pytest.raises(LaternaError, match="is not base64"):
        task.open_image(folder, "mmbench_dev_20230712.tsv:8")


def test_a_part_is_drawn_in_whole_units(read: Read, write: Callable[..., Path]) -> None:
    pairs = read("mme", limit=2)
    assert len({one.images for one in pairs.questions}) == 1
    assert len(pairs.questions) == 2
    rotations = {
        tuple(one.id for one in read("mmbench", limit=2, seed=seed).questions) for seed in range(9)
    }
    assert rotations == {("7", "1000007"), ("8",)}
    assert read("pope", limit=4, seed=1) == read("pope", limit=4, seed=1)


ODD: list[Any] = [
    None,
    True,
    -1,
    1.5,
    float("nan"),
    10**400,
    "",
    " ",
    "\0",
    "\ud800",
    "../x",
    "é" * 3,
]
ODD += [[], {}, [None], {"a": None}, "A", "yes", "x" * 5000]


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    inside: list[tuple[object, object]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    for key, one in inside:
        yield (*path, key)
        yield from places(one, (*path, key))


def spoiled(content: object, rng: random.Random) -> object:
    """A file's content with one thing changed, removed or doubled; or its text broken."""
    if isinstance(content, str) or rng.random() < 0.15:
        text = content if isinstance(content, str) else json.dumps(content)
        at = rng.randrange(len(text))
        other = rng.choice(['"', "\t", "\n", "\0", "{", "]", ",", "\ufeff", "é", ""])
        return rng.choice([text[:at], text[:at] + other + text[at + 1 :], other + text])
    changed = copy.deepcopy(content)
    *above, last = rng.choice([*places(changed)])
    inner: Any = changed
    for key in above:
        inner = inner[key]
    what = rng.random()
    if what < 0.2:
        del inner[last]
    elif what < 0.3 and isinstance(inner, list):
        inner.append(inner[last])
    else:
        inner[last] = rng.choice(ODD)
    return changed


@pytest.mark.parametrize("rounds", [300, pytest.param(2_000, marks=pytest.mark.slow)])
def test_fuzzed_rows_never_end_in_a_traceback(
    rounds: int,
    files: Files,
    put: Callable[..., Path],
    write: Callable[..., Path],
    values: Callable[..., dict[str, float]],
) -> None:
    rng = random.Random(rounds)
    outcomes = {"read": 0, "skipped": 0, "told": 0}
    said = {"llava_bench": "8 6", "mm_vet": "0.5"}
    folders = {task: write(task) for task in files}
    for number in range(rounds):
        task = sorted(files)[number % len(files)]
        name = rng.choice(annotation_files(files, task))
        whole = (folders[task] / name).read_bytes()
        put(folders[task], {name: spoiled(files[task][name], rng)})
        try:
            asked = read_questions(TASKS[task], folders[task])
        except LaternaError as error:
            assert str(folders[task]) in str(error) or "question" in str(error)
            outcomes["told"] += 1
        else:
            outcomes["skipped" if asked.skipped else "read"] += 1
            assert asked.examples.keys() == asked.skipped.keys()
            if asked.questions and task != "captions":
                values(task, asked, {one.id: said.get(task, "A") for one in asked.questions})
        (folders[task] / name).write_bytes(whole)
    assert sum(outcomes.values()) == rounds
    assert min(outcomes.values()) > rounds / 10, outcomes


def test_every_row_is_a_question_or_counted(files: Files, read: Read) -> None:
    rng = random.Random(5)
    content: Any = files["vizwiz"]["val.json"]
    rows: list[Any] = [*content] * 100
    spoilt = []
    for number, row in enumerate(rows):
        row = {**row, "image": f"{number}.jpg"}
        if rng.random() < 0.5:
            row[rng.choice(sorted(row))] = rng.choice(ODD[:11])
        spoilt.append(row)
    found = read("vizwiz", {"val.json": spoilt})
    assert len(found.questions) + sum(found.skipped.values()) == len(rows)
    assert 50 < len(found.questions) < len(rows)


def test_a_reader_of_another_kind_needs_nothing_but_to_yield(tmp_path: Path) -> None:
    def ask(dataset_folder: Path, *, limit: int, seed: int) -> Iterator[Question]:
        yield Question(id="1", images=(), kind="k", text="What?", references=("x",))

    assert read_questions(Task(ask, "one thing"), tmp_path).skipped == {}
