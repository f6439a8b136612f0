"""An encoder of timm where timm or its torchvision is missing: a sentence says what to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laterna.cli import main
from laterna.errors import LaternaError
from laterna.model.vision import load_vision
from laterna.model.vision.tower import blank_vision
from laterna.recipe import VisionSettings

STATED = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
FORMS: dict[str, dict[str, Any]] = {
    "timm's own": {"architecture": "test_resnet", "pretrained_cfg": STATED},
    "transformers'": {"architecture": "test_resnet", "model_type": "timm_wrapper"},
}
BROKEN = "operator torchvision::nms does not exist"


@pytest.fixture(params=FORMS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FORMS[request.param]))
    return str(folder)


@pytest.fixture(params=["missing", "of another torch"])
def reason(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Take timm away, or put one there that finds a torchvision which does not import."""
    for name in [name for name in sys.modules if name == "timm" or name.startswith("timm.")]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "missing":
        monkeypatch.setitem(sys.modules, "timm", None)
        return "timm"
    package = tmp_path / "packages" / "timm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise RuntimeError({BROKEN!r})\n")
    monkeypatch.syspath_prepend(str(package.parent))
    return BROKEN


@pytest.mark.parametrize("load", [load_vision, blank_vision])
def test_what_to_install_is_said(load: Any, source: str, reason: str) -> None:
    with pytest.raises(LaternaError) as told:
        load(VisionSettings(source=source, layer=-1))
    said = str(told.value)
    assert said.startswith(f"{source}: an encoder of timm, which needs the packages timm and torch")
    assert reason in said
    assert "run `pip install 'laterna[timm]'`, with the torchvision that was built for" in said


def test_the_command_line_exits_2(
    source: str, reason: str, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(source).with_name("recipe.toml")
    recipe.write_text(
        f'name = "tiny"\n[vision]\nsource = {source!r}\nlayer = -1\n'
        f"[language]\nsource = {str(tiny_models / 'language')!r}\n"
        + "".join(
            f"[{stage}]\ndata = 'a.json'\nimages = '.'\n"
            f"[{stage}.connector]\nmode = 'full'\nlr = 1e-3\n"
            for stage in ("align", "instruct")
        )
    )
    assert main(["plan", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"laterna: {source}: an encoder of timm")
    assert reason in said


def test_a_torchvision_of_another_torch_is_told_whatever_the_encoder(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise RuntimeError({BROKEN!r})\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "laterna", "plan", "nano"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"laterna: torchvision is installed but does not import ({BROKEN}"
    )
    assert "`pip uninstall torchvision`" in done.stderr
