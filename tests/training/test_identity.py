"""Which run it is: what makes another one, and what does not."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from laterna.cli import main
from laterna.data import fingerprints
from laterna.data.sources import tables
from laterna.errors import LaternaError
from laterna.recipe import Recipe, RunSettings, SourceSettings
from laterna.training.identity import run_digest
from laterna.training.run import train


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
        instruct=msgspec.structs.replace(recipe.instruct, batch_records=1),
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
    real = fingerprints._files_in

    def listed(folder: str, inside: str = "") -> Iterator[tuple[str, fingerprints.Stamp]]:
        looks[Path(folder).name] += 1
        return real(folder, inside)

    def asked(name: str) -> str:
        looks[name] += 1
        return "a1b2"

    monkeypatch.setattr(fingerprints, "_files_in", listed)
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
    shown = recipe.align.pictures
    both = tuple(
        SourceSettings(data=data, pictures=shown) for data in (f"{tmp_path}/set", "hub:owner/name")
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
