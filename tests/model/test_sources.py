from __future__ import annotations

from pathlib import Path

import pytest

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.model.sources import BUILTIN, resolve
from laterna.world.dataset import write_world


def test_shipped_names_become_folders_and_all_else_stays() -> None:
    assert resolve("builtin:nano-vit") == str(BUILTIN["nano-vit"])
    assert resolve("openai/clip-vit-large-patch14") == "openai/clip-vit-large-patch14"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(LaternaError, match="builtin:nano-vit, builtin:nano-llama"):
        resolve("builtin:giant")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/no/such/folder", "no such file or folder; a model on the Hugging Face hub is named OWN"),
        ("./none", "no such file or folder; a model on the Hugging Face hub is named OWNER/NAME"),
        ("a/b/c", "no such file or folder; a model on the Hugging Face hub is named OWNER/NAME"),
        ("no-such/model", "no such folder here, and no model of that name that the hub gives"),
        ("file", "it is a file. Give the folder of a Laterna checkpoint"),
        ("empty", "not a LLaVA model (no config.json): it is empty. Give the folder"),
        ("world", "(no config.json): it holds train, words. Give the folder"),
        ("run", "it is the folder of a run: name the checkpoint of a stage, as run/instruct"),
    ],
)
@pytest.mark.parametrize("command", ["chat", "serve", "evaluate", "export", "import", "explain"])
def test_a_model_that_is_none_is_told_in_a_sentence(
    command: str,
    name: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for made in ("empty", "world/train", "run/align", "run/instruct"):
        Path(made).mkdir(parents=True)
    write_world(Path("data"), images=1, seed=0)
    for made in ("file", "world/words", "run/align/laterna.json", "run/instruct/laterna.json"):
        Path(made).touch()
    more = {
        "evaluate": ["--data", "data"],
        "export": ["out", "--to", "hf"],
        "import": ["out"],
        "explain": ["--image", "data/images/000000.png", "--question", "?"],
    }
    assert main([command, name, *more.get(command, [])]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"laterna: {name}: ")
    assert said in told
    assert "Repo id" not in told
    assert not Path("out").exists()


@pytest.mark.parametrize("part", ["vision", "language"])
def test_a_part_that_is_nowhere_is_told_in_a_sentence(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "nano", f"--{part}.source", "/no/such"]) == 2
    assert capsys.readouterr().err.startswith("laterna: /no/such: no such file or folder; a model")
