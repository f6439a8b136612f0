"""Which run it is: what makes another one, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from laterna.data import sources
from laterna.data.sources import tables
from laterna.errors import LaternaError
from laterna.recipe import Recipe, RunSettings
from laterna.training.identity import run_digest


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
        monkeypatch.setattr(sources, "hub_revision", lambda name, now=revision: f"{name} {now}")
        found.append(of(recipe, "hub:owner/name"))
    assert found[0] == found[1] != found[2]


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
