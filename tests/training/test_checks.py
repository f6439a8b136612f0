"""Settings that cannot be meant are refused before anything is read."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.recipe import load_recipe, shipped_recipes
from laterna.training import checks as sensible
from laterna.training.checks import require_sensible

NANO = load_recipe("nano")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--instruct.connector.lr 0", "instruct.connector.lr = 0: a part in mode `full` needs a"),
        (
            "--align.connector.mode frozen",
            "align: the stage trains no part",
        ),
        ("--align.connector.mode lora", "align.connector.mode = `lora`: a connector trains whole"),
        (
            "--feature-cache f --instruct.vision.mode lora-last-2 --instruct.vision.lr 1",
            "feature_cache = 'f' keeps the features of an encoder that stays as it is, but "
            "instruct.vision.mode = `lora-last-2` trains it",
        ),
        ("--language.quantize 4bit", "instruct.language.mode = `full`: matrices in 4 bits do not"),
        ("--align.pack-length 3", "align: pack_length = 3, max_tokens = 2048: shorter than any"),
        ("--instruct.max-tokens 1", "instruct: pack_length = 2560, max_tokens = 1: shorter than"),
        ("--vision.grids 1 1", "vision.grids are for vision.fit = 'anyres', which is 'pad'"),
        ("--language.template plain", "instruct.template = 'own' but language.template = 'plain'"),
        ("--run.eval-steps 5", "run.eval_steps = 5, but there are no validation records"),
        ("--align.connector.lr nan", "--align.connector.lr nan: not a finite number"),
        ("--align.weight-decay inf", "--align.weight-decay inf: not a finite number"),
        ("--align.epochs 0", "--align.epochs 0.0: give a number above 0"),
        ("--align.validation 1", "--align.validation 1.0: give a number below 1"),
        ("--lora.dropout 1", "--lora.dropout 1.0: give a number below 1"),
        ("--align.max-grad-norm -1", "--align.max-grad-norm -1.0: give a number of at least 0"),
        ("--seed 4294967296", "--seed 4294967296: give a whole number of at most 4294967295"),
        ("--run.workers 100000", "--run.workers 100000: give a whole number of at most 1024"),
        ("--connector.depth 0", "--connector.depth 0: give a whole number of at least 1"),
        ("--vision.image-size -4", "--vision.image-size -4: give a whole number of at least 1"),
        ("--vision.grids 0 2", "--vision.grids"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    args: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "nano", "--out", "o", *args.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"laterna: {words}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_shipped_recipes_are_sensible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensible, "_require_packages", lambda *_: None)
    for name in shipped_recipes():
        require_sensible(load_recipe(name), ["align", "instruct"])


@pytest.mark.parametrize(
    ("package", "extra", "changes"),
    [
        ("peft", "adapters", {"language": {"mode": "lora", "lr": 1e-4}}),
        ("bitsandbytes", "bitsandbytes", {"optimizer": "adamw8bit"}),
    ],
)
def test_a_package_that_is_missing_is_said_first(
    package: str, extra: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensible, "find_spec", lambda name: None if name == package else name)
    stage = msgspec.convert(msgspec.to_builtins(NANO.instruct) | changes, type(NANO.instruct))
    recipe = msgspec.structs.replace(NANO, instruct=stage)
    with pytest.raises(LaternaError, match=rf"needs the package {package}; .*laterna\[{extra}\]"):
        require_sensible(recipe, ["instruct"])
    require_sensible(recipe, ["align"])


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_recipe_file_with_a_number_that_is_not_finite_is_refused(
    number: float, tmp_path: Path
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        'name = "r"\nvision.source = "v"\nlanguage.source = "l"\n'
        f'[align]\ndata = "a"\nmax_grad_norm = {number}\n[instruct]\ndata = "b"\n'
    )
    with pytest.raises(
        LaternaError, match=r"r\.toml: .*align\.max_grad_norm (inf|nan): give a number of at"
    ):
        load_recipe(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate d --data d --limit -1", "--limit -1: give a whole number of at least 0"),
        ("evaluate d --data none", "none: no such folder"),
        ("chat d --max-new-tokens 0", "--max-new-tokens 0: give a whole number of at least 1"),
        ("chat d --image none.png", "none.png: no such file"),
        ("lab blind-spots --seeds 0", "--seeds 0: give a whole number of at least 1"),
        ("world w --images 0", "--images 0: give a whole number of at least 1"),
        ("demo --seed 99999999999", "--seed 99999999999: give a whole number of at most"),
        ("plan nano --mfu nan", "--mfu nan: not a finite number"),
        ("plan nano --gpus 0", "--gpus 0: give a whole number of at least 1"),
        ("plan nano --records 5 0", "--records 5 0: give a whole number of at least 1"),
        ("prepare nano --workers -1", "--workers -1: give a whole number of at least 0"),
        ("export d o --to gguf --precision bf16", "precision 'bf16': this format has f16, f32"),
        ("synthesize --annotations d --out o --budget nan", "--budget nan: not a finite number"),
        ("synthesize --annotations d --out o --tries 0", "--tries 0: give a whole number of at"),
        ("synthesize --annotations d --out o --input-price -1", "--input-price -1.0: give a num"),
        ("synthesize --annotations d --out f/o", "f/o: "),
        ("world f/w", "f/w: "),
    ],
)
def test_what_can_be_known_at_once_is_said_at_once(
    line: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("laterna.model.checkpoint.load_checkpoint", pytest.fail)
    Path("d").mkdir()
    Path("f").touch()
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"laterna: {words}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "f"]
