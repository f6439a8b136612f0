"""Every command with an output leaves alone what is not its own, and what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from laterna.cli import COMMANDS, main, parse
from laterna.commands.base import Command, require_places
from laterna.errors import LaternaError
from laterna.files import MADE, Made, write_atomically
from laterna.synthesis.run import synthesize
from laterna.world.dataset import write_world

FOLDERS: dict[str, list[str]] = {
    "world": ["world", "OUT", "--images", "1"],
    "import": ["import", "checkpoint", "OUT"],
    "export": ["export", "checkpoint", "OUT", "--to", "hf"],
    "export to gguf": ["export", "checkpoint", "OUT", "--to", "gguf"],
    "train": ["train", "nano", "--stage", "align", "--out", "UP"],
    "demo": ["demo", "--quick", "--out", "OUT"],
    "evaluate": ["evaluate", "checkpoint", "--data", "drawn", "--out", "OUT"],
}
"""Command lines whose OUT is a folder; UP is the folder above it, which is then named `align`."""
FILES: dict[str, list[str]] = {
    "synthesize": ["synthesize", "--annotations", "drawn", "--out", "OUT"],
    "check": ["check", "--contexts", "contexts", "--replies", "replies", "--out", "OUT"],
    "inspect": ["inspect", "records.json", "--html", "OUT"],
    "plan": ["plan", "nano", "--out", "OUT"],
    "compare": ["compare", "run", "drawn", "--out", "OUT"],
    "report": ["report", "run", "--out", "OUT"],
}
ENDING = {
    "explain": ["explain", "checkpoint", "--image", "drawn/images/000000.png", "--question", "?",
                "--out", "OUT"],
}  # fmt: skip
"""Command lines whose OUT is a file with an ending of its own."""
GROWING = {"prepare": ["prepare", "recipe.toml"], "lab": ["lab", "projector", "--out", "OUT"]}
READ: dict[str, str] = {
    "import": "checkpoint",
    "export": "checkpoint",
    "synthesize": "drawn",
    "check": "replies",
    "inspect": "records.json",
    "evaluate": "checkpoint",
    "compare": "drawn",
    "train": "checkpoint",
}
"""What the command line reads."""


def filled(line: list[str], out: str) -> list[str]:
    places = {"OUT": out, "UP": str(Path(out).parent)}
    return [places.get(word, word) for word in line]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something of each kind that commands read."""
    folder = tmp_path_factory.mktemp("made")
    write_world(folder / "drawn", images=1, seed=0)
    synthesize(folder / "drawn", folder / "records.json", kinds=("caption",))
    with write_atomically(folder / "checkpoint", Made(kind="checkpoint")) as aside:
        aside.mkdir()
        (aside / "laterna.json").write_text("{}")
    (folder / "run").mkdir()
    for name in ("contexts", "replies"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand among copies of them."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_no_command_with_an_output_is_forgotten() -> None:
    writing = {name for name, one in COMMANDS.items() if one.writes is not Command.writes}  # type: ignore[attr-defined]
    tried = {line[0] for lines in (FOLDERS, FILES, ENDING, GROWING) for line in lines.values()}
    assert tried == writing


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
@pytest.mark.parametrize("out", ["theirs/align", "link/align", "."])
def test_a_folder_with_a_foreign_file_in_it_survives(
    name: str, out: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "theirs" / "align").mkdir(parents=True)
    (place / "theirs" / "align" / "thesis.tex").write_text("precious")
    (place / "link").symlink_to("theirs")
    line = {**FOLDERS, **FILES}[name]
    if name == "train" and out == ".":
        pytest.skip("names the folder above")
    before = contents(place)
    assert main(filled(line, out)) == 2
    words = said(capsys)
    assert contents(place) == before
    refused = ("is a folder; name", "is not empty", "contains the input")
    assert any(one in words for one in refused), words


@pytest.mark.parametrize("name", ENDING)
def test_neither_a_folder_nor_a_file_without_the_ending_is_written_over(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "theirs.html").mkdir()
    (place / "theirs.html" / "thesis.tex").write_text("precious")
    before = contents(place)
    for out, words in {
        "theirs.html": "is a folder; name",
        "captions.json": "ends in .html",
    }.items():
        assert main(filled(ENDING[name], out)) == 2
        assert words in said(capsys)
    assert contents(place) == before


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("where", ["equal", "inside", "above", "by a link"])
def test_what_is_read_is_not_written_over(
    name: str, where: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = place / READ[name]
    line = {**FOLDERS, **FILES}[name]
    if name == "train":
        line = [*line, "--init-from", READ[name]]
    out = {
        "equal": read,
        "inside": read / "x" / "align",
        "above": place,
        "by a link": place / "other",
    }[where]
    if name == "train" and where != "inside":
        pytest.skip("a start is never the folder of a stage by its name")
    (place / "other").symlink_to(read)
    before = contents(place)
    assert main(filled(line, str(out))) == 2
    assert contents(place) == before
    words = said(capsys)
    refused = ("the input", "is an input", "is a folder", "is a file, so nothing can be")
    assert any(one in words for one in refused), words


@pytest.mark.parametrize("part", ["laterna.json", MADE])
def test_a_part_of_a_checkpoint_is_not_written_over(
    part: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the report is of the folder above, and may write a page there."""
    shutil.move(place / "checkpoint", place / "run" / "align")
    before = contents(place)
    assert main(["report", "run", "--out", f"run/align/{part}"]) == 2
    assert "belongs to the checkpoint" in said(capsys)
    assert contents(place) == before


def test_a_folder_of_ours_with_a_foreign_file_survives_even_when_it_may_be_replaced(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_world(place / "align", images=1, seed=0)
    (place / "align" / "thesis.tex").write_text("precious")
    before = contents(place)
    for more in ([], ["--overwrite"]):
        assert main(["world", "align", "--images", "1", *more]) == 2
        assert "holds other files than its world (thesis.tex)" in said(capsys)
        assert contents(place) == before


def test_another_of_its_kind_is_replaced_only_when_it_is_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", "align", "--images", "1"]) == 0
    assert main(["world", "align", "--images", "1"]) == 0
    assert main(["world", "align", "--images", "2"]) == 2
    assert "(images 1, now 2); name a new folder, or replace it by --overwrite" in said(capsys)
    assert main(["import", "drawn", "align"]) == 2
    assert "holds Laterna's world, no checkpoint" in said(capsys)
    assert main(["world", "align", "--images", "2", "--overwrite"]) == 0
    assert len(list((place / "align" / "images").iterdir())) == 2


def test_prepared_records_are_kept_in_no_folder_that_is_read(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "recipe.toml").write_text(
        'name = "r"\nprepared = "drawn/prepared"\nvision.source = "builtin:nano-vit"\n'
        'language.source = "builtin:nano-llama"\n[align]\ndata = "drawn"\n[instruct]\ndata = "x"\n'
    )
    before = contents(place)
    assert main(["prepare", "recipe.toml"]) == 2
    assert "drawn/prepared lies inside the input drawn" in said(capsys)
    assert contents(place) == before


@pytest.fixture
def trains(place: Path) -> Path:
    """A recipe that reads files and a folder of images of this machine."""
    for name in ("images", "models"):
        (place / name).mkdir()
    part = 'data = "records.json"\nimages = "images"\nconnector = {mode = "full", lr = 1e-3}\n'
    (place / "mine.toml").write_text(
        'name = "mine"\nvision.source = "models"\nlanguage.source = "builtin:nano-llama"\n'
        f"[align]\n{part}[instruct]\n{part}"
    )
    return place


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("records.json", "records.json"),
        ("images/x", "lies inside the input images"),
        ("models/x", "lies inside the input models"),
        ("images", "images"),
        ("mine.toml", "mine.toml"),
        ("checkpoint/x", "lies inside the checkpoint"),
        ("drawn/x", "lies inside the world"),
    ],
)
def test_what_a_recipe_reads_is_an_input(
    command: str, out: str, said: str, trains: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(trains)
    assert main([command, "mine.toml", "--out", out]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert contents(trains) == before


def test_images_may_be_named_from_the_folder_that_one_works_in(trains: Path) -> None:
    """As in `images = "."`: only what records name is read of it."""
    recipe = trains / "mine.toml"
    recipe.write_text(recipe.read_text().replace('images = "images"', 'images = "."'))
    require_places(parse(["train", "mine.toml"]))
    with pytest.raises(LaternaError, match="lies inside the input models"):
        require_places(parse(["train", "mine.toml", "--out", "models/x"]))


@pytest.mark.parametrize("kept", ["prepared", "feature_cache"])
def test_nothing_is_kept_inside_what_was_made_whole(kept: str, trains: Path) -> None:
    recipe = trains / "mine.toml"
    recipe.write_text(f'{kept} = "checkpoint/kept"\n{recipe.read_text()}')
    with pytest.raises(LaternaError, match="lies inside the checkpoint"):
        require_places(parse(["train", "mine.toml"]))


@pytest.fixture
def leftovers(place: Path) -> Iterator[Path]:
    """What a process that was killed between its two renames leaves."""
    write_world(place / "align", images=1, seed=0)
    box = place / ".align.part"
    box.mkdir()
    (place / "align").rename(box / "old")
    write_world(box / "new", images=2, seed=0)
    yield place / "align"
    assert not box.exists()


def test_what_a_killed_process_had_moved_aside_is_found_by_who_reads_it(leftovers: Path) -> None:
    assert main(["synthesize", "--annotations", "align", "--out", "x.json"]) == 0
    assert len(list((leftovers / "images").iterdir())) == 2


@pytest.mark.parametrize("name", FILES)
def test_annotations_that_lie_beside_others_are_not_written_over(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("instances.json", "captions.json"):
        shutil.copy(place / "drawn" / file, place)
    before = contents(place)
    line = filled(FILES[name], "captions.json")
    if name == "synthesize":  # reads the captions without naming them
        line[2] = "instances.json"
    assert main(line) == 2
    assert contents(place) == before
    assert "captions.json: holds annotations (COCO (LVIS, VizWiz, nocaps)), which would" in said(
        capsys
    )


@pytest.mark.parametrize("form", ["llava", "jsonl", "parquet", "messages"])
def test_what_was_synthesized_may_be_made_again(form: str, place: Path) -> None:
    line = [*filled(FILES["synthesize"], f"made.{form}"), "--form", form, "--kinds", "caption"]
    assert [main(line), main(line)] == [0, 0]
