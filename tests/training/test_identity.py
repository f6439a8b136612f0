"""Which run it is: what makes another one, and what does not."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load_file, save_file

from laterna.cli import main
from laterna.data import fingerprints
from laterna.data.sources import tables
from laterna.errors import LaternaError
from laterna.model.checkpoint import load_checkpoint, read_manifest
from laterna.recipe import Recipe, RunSettings, SourceSettings
from laterna.training.resume import run_digest
from laterna.training.run import train

from .conftest import interrupt

CONNECTOR = "connector.safetensors"


def of(recipe: Recipe, data: str) -> str:
    stage = msgspec.structs.replace(recipe.align, data=data)
    return run_digest(msgspec.structs.replace(recipe, align=stage), "align", None)


def test_how_a_run_is_carried_out_and_the_other_stage_are_no_part_of_it(
    recipe: Recipe, tmp_path: Path
) -> None:
    first = run_digest(recipe, "align", None)
    other = msgspec.structs.replace(
        recipe,
        run=RunSettings(workers=0, save_steps=1),
        threads=2,
        feature_cache=str(tmp_path / "features"),
        instruct=msgspec.structs.replace(recipe.instruct, global_batch_size=1),
    )
    assert run_digest(other, "align", None) == first
    assert run_digest(other, "instruct", None) != run_digest(recipe, "instruct", None)
    assert run_digest(recipe, "instruct", None) != first
    assert run_digest(msgspec.structs.replace(recipe, seed=9), "align", None) != first


def test_other_bytes_make_another_run_in_a_file_and_in_a_folder(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Of the same length too, under the same names and times."""
    (tmp_path / "set").mkdir()
    for data, held in (("records.json", "records.json"), ("set", "set/rows.jsonl")):
        path = tmp_path / held
        path.write_text('[{"id": 1}]')
        was = path.stat()
        first = of(recipe, str(tmp_path / data))
        assert of(recipe, str(tmp_path / data)) == first
        path.write_text('[{"id": 2}]')
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert of(recipe, str(tmp_path / data)) != first


def with_models(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe over copies of its models."""
    parts = {}
    for name in ("vision", "language"):
        settings = getattr(recipe, name)
        place = shutil.copytree(settings.source, folder / name)
        parts[name] = msgspec.structs.replace(settings, source=str(place))
    return msgspec.structs.replace(recipe, **parts)


def change(weights: Path, name: str) -> None:
    """Move one weight a little; name, size and shape of the file stay."""
    found = load_file(weights)
    found[name].view(-1)[0] += 1e-2
    save_file(found, weights, metadata={"format": "pt"})


WEIGHTS = {
    "vision": "encoder.layers.0.mlp.fc1.bias",
    "language": "model.layers.0.mlp.up_proj.weight",
}


def test_models_count_by_what_they_hold_wherever_they_lie(recipe: Recipe, tmp_path: Path) -> None:
    first = run_digest(recipe, "align", None)
    for number in range(2):
        moved = with_models(recipe, tmp_path / str(number))
        assert run_digest(moved, "align", None) == first
    (tmp_path / "1" / "language" / "README.md").write_text("what nothing reads")
    (tmp_path / "1" / "vision" / "model.safetensors").touch()
    assert run_digest(moved, "align", None) == first
    for part, weight in WEIGHTS.items():
        before = run_digest(moved, "align", None)
        change(tmp_path / "1" / part / "model.safetensors", weight)
        assert run_digest(moved, "align", None) != before


def test_a_checkpoint_to_start_from_counts_by_its_weights_not_by_its_clock(
    recipe: Recipe, tmp_path: Path
) -> None:
    short = msgspec.structs.replace(recipe.align, max_steps=2)
    recipe = msgspec.structs.replace(recipe, align=short)
    outs = [train(recipe, stage="align", out=tmp_path / name) for name in ("one", "two")]
    seconds = [read_manifest(out).figures["seconds"] for out in outs]
    assert seconds[0] != seconds[1]
    first, second = (run_digest(recipe, "instruct", out) for out in outs)
    assert first == second != run_digest(recipe, "instruct", None)
    more = msgspec.structs.replace(recipe, align=msgspec.structs.replace(short, max_steps=3))
    third = train(more, stage="align", out=tmp_path / "three")
    assert run_digest(recipe, "instruct", third) != first


@pytest.mark.parametrize("part", ["vision", "language"])
def test_a_base_model_replaced_between_stop_and_restart_makes_another_run(
    part: str, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = with_models(recipe, tmp_path / "models")
    settings = msgspec.structs.replace(ours.align, max_steps=4)
    run = RunSettings(save_minutes=0, save_steps=1)
    ours = msgspec.structs.replace(ours, align=settings, run=run)
    out, done = tmp_path / "out", tmp_path / "done"
    train(ours, stage="align", out=done)
    interrupt(ours, "align", out, 3)
    change(tmp_path / "models" / part / "model.safetensors", WEIGHTS[part])
    capsys.readouterr()
    train(ours, stage="align", out=out)
    said = " ".join(capsys.readouterr().out.split())
    assert "states of a run with other settings or data, not used" in said
    assert "going on after" not in said
    fresh = train(ours, stage="align", out=tmp_path / "fresh")
    assert (out / CONNECTOR).read_bytes() == (fresh / CONNECTOR).read_bytes()
    assert (out / CONNECTOR).read_bytes() != (done / CONNECTOR).read_bytes()
    with pytest.raises(LaternaError, match=rf"models/{part}: holds another {part} model than"):
        load_checkpoint(done)


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_checkpoint_is_neither_done_nor_started_from(
    how: str, recipe: Recipe, tmp_path: Path, damage: Callable[[Path, str], None]
) -> None:
    settings = msgspec.structs.replace(recipe.align, max_steps=1)
    recipe = msgspec.structs.replace(recipe, align=settings)
    out = train(recipe, stage="align", out=tmp_path / "align")
    damage(out / CONNECTOR, how)
    said = (
        r"align/connector\.safetensors: its (size|checksum) differs.* copy it again, or remove it"
    )
    with pytest.raises(LaternaError, match=said):
        train(recipe, stage="align", out=out)
    with pytest.raises(LaternaError, match=said):
        train(recipe, stage="instruct", out=tmp_path / "instruct", init_from=out)
    assert not (tmp_path / "instruct").exists()


def test_another_revision_of_a_hubs_dataset_makes_another_run(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for revision in ("a1b2", "a1b2", "c3d4"):
        monkeypatch.setattr(
            fingerprints, "hub_revision", lambda name, now=revision: f"{name} {now}"
        )
        found.append(of(recipe, "hub:owner/name"))
    assert found[0] == found[1] != found[2]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each folder was listed, and the hub asked, by their names."""
    looks: Counter[str] = Counter()
    real = fingerprints.files_in

    def listed(folder: Path) -> Iterator[str]:
        looks[folder.name] += 1
        return real(folder)

    def asked(name: str) -> str:
        looks[name] += 1
        return "a1b2"

    monkeypatch.setattr(fingerprints, "files_in", listed)
    monkeypatch.setattr(fingerprints, "hub_revision", asked)
    return looks


@pytest.fixture
def mixed(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe over a dataset's folder and one of the hub, the same in both stages."""
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(json.loads(Path(recipe.align.data).read_text()))
    dataset.save_to_disk(tmp_path / "set")
    real = datasets.load_dataset

    def load_dataset(where: str, *args: object, **settings: object) -> object:
        ours = where == "owner/name"
        return {"train": dataset.to_iterable_dataset()} if ours else real(where, *args, **settings)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    shown = recipe.align.images
    both = tuple(
        SourceSettings(data=data, images=shown) for data in (f"{tmp_path}/set", "hub:owner/name")
    )
    stages = {
        name: msgspec.structs.replace(recipe.stage(name), data="", sources=both, max_steps=1)
        for name in ("align", "instruct")
    }
    return msgspec.structs.replace(recipe, **stages)


def test_a_start_looks_at_each_source_once(
    mixed: Recipe, looked_at: Counter[str], tmp_path: Path
) -> None:
    """Identity and preparation share that look; the next start of the same run looks anew."""
    for starts in (1, 2):
        train(mixed, stage="align", out=tmp_path / "out")
        assert {name: looked_at[name] for name in ("set", "owner/name")} == {
            "set": starts,
            "owner/name": starts,
        }


def test_preparing_both_stages_looks_at_each_source_once(
    mixed: Recipe, looked_at: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laterna.commands.prepare.load_recipe", lambda source: mixed)
    assert main(["prepare", "mixed.toml", "--workers", "1"]) == 0
    assert looked_at == {"set": 1, "owner/name": 1}


@pytest.mark.parametrize("ending", ["offline", "unreachable", "no id"])
def test_a_hub_that_does_not_answer_is_said(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    raised = {
        "offline": OfflineModeIsEnabled("no network"),
        "unreachable": HfHubHTTPError.__bases__[0]("no network"),
        "no id": HFValidationError("no network"),
    }[ending]

    def dataset_info(_api: object, name: str) -> None:
        raise raised

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(LaternaError, match=r"hub:owner/name: the hub does not tell .*: no network"):
        tables.hub_revision("owner/name")
