from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import laterna.training.run
import laterna.training.setup
from laterna.cli import main
from laterna.data.chat import load_template
from laterna.errors import LaternaError
from laterna.inference.generation import Decoding, generate_answers
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import load_checkpoint, read_manifest
from laterna.model.fusion import prefix
from laterna.recipe import LoraSettings, PartSettings, Recipe, RunSettings, StageName
from laterna.records import IMAGE_TOKEN_INDEX, Turn
from laterna.training.run import train
from laterna.training.telemetry import read_metrics


def losses(folder: Path) -> list[float]:
    return [step.loss for step in read_metrics(folder / "metrics.jsonl")]


def test_two_stages_teach_the_tiny_assistant_its_colours(
    recipe: Recipe, colours: dict[str, tuple[int, int, int]], question: str, tmp_path: Path
) -> None:
    align = train(recipe, stage="align", out=tmp_path / "align")
    out = train(recipe, stage="instruct", out=tmp_path / "instruct", init_from=align)
    assert (read_manifest(align).parts, read_manifest(out).parts) == (
        ("connector",),
        ("connector", "language"),
    )
    assert (len(losses(align)), len(losses(out))) == (30, 60)
    assert losses(out)[-1] < 0.2 * losses(out)[0]
    figures = read_manifest(out).figures
    assert (figures["steps"], figures["loss_first"]) == (60, losses(out)[0])
    assistant = load_checkpoint(out)
    for name, part in assistant.parts().items():
        weights = sum(weight.numel() for weight in part.parameters())
        counts = (weights, 0) if name != "vision" else (0, weights)
        assert (figures[f"{name}_trained"], figures[f"{name}_frozen"]) == counts
    steps = read_metrics(out / "metrics.jsonl")
    assert all(step.mfu and 0 < step.mfu < 1 for step in steps)
    assert all(0 < step.vision_seconds < step.model_seconds < step.seconds for step in steps)
    assert steps[0].flops > read_metrics(align / "metrics.jsonl")[0].flops  # weights' gradients too
    prompts = [
        ([Turn(role="user", text=question)], [Image.new("RGB", (28, 28), colour)])
        for colour in colours.values()
    ]
    assert generate_answers(assistant, prompts, Decoding(max_new_tokens=8)) == list(colours)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"images", "records.json", "prepared", "align", "instruct"}


def test_what_trains_is_told_before_the_first_step(
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(laterna.training.run, "train_steps", lambda *_, **__: pytest.fail("a step"))
    with pytest.raises(pytest.fail.Exception):
        train(recipe, stage="align", out=tmp_path / "out")
    said = capsys.readouterr().out
    parts = build_from_recipe(recipe).parts()
    for name, part in parts.items():
        weights = f"{sum(weight.numel() for weight in part.parameters()):,}"
        trained, frozen = ("0", weights) if name != "connector" else (weights, "0")
        (row,) = (line.split() for line in said.splitlines() if line[2:].startswith(name))
        assert [row[5], row[7]] == [trained, frozen]


def test_cached_features_give_the_run_that_computed_ones_give(
    recipe: Recipe, tmp_path: Path
) -> None:
    direct = losses(train(recipe, stage="align", out=tmp_path / "direct"))
    again = losses(train(recipe, stage="align", out=tmp_path / "again"))
    cached = msgspec.structs.replace(recipe, feature_cache=str(tmp_path / "cache"))
    stored = losses(train(cached, stage="align", out=tmp_path / "stored"))
    assert again == direct
    assert stored == pytest.approx(direct, abs=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_stage_may_train_the_encoder_too(recipe: Recipe, tmp_path: Path) -> None:
    part = recipe.align.connector
    align = msgspec.structs.replace(recipe.align, vision=part, max_steps=2)
    ours = msgspec.structs.replace(recipe, align=align)
    out = train(ours, stage="align", out=tmp_path / "out")
    assert read_manifest(out).parts == ("connector", "vision")
    trained = load_checkpoint(out).vision.weights()
    before = build_from_recipe(ours).vision.weights()
    moved = {name for name in before if not torch.equal(before[name], trained[name])}
    assert {name for name in moved if name.startswith(("encoder.layers.2.", "post_"))} == set()
    assert {f"encoder.layers.{layer}.mlp.fc1.weight" for layer in (0, 1)} <= moved


def test_dropped_records_are_counted_aloud(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "3.png").unlink()
    align = msgspec.structs.replace(recipe.align, max_steps=1)
    train(msgspec.structs.replace(recipe, align=align), stage="align", out=tmp_path / "out")
    said = capsys.readouterr().out
    assert "11 records prepared" in said
    assert "dropped 1: image missing" in said


def test_more_unreadable_images_than_the_limit_stop_a_run_before_it_trains(
    recipe: Recipe, tmp_path: Path
) -> None:
    for number in (3, 4):
        (tmp_path / "images" / f"{number}.png").unlink()
    (tmp_path / "images" / "7.png").write_bytes(b"no image")
    align = msgspec.structs.replace(recipe.align, max_steps=1)
    limit = {number: RunSettings(max_faulty=number) for number in (2, 3)}
    ours = msgspec.structs.replace(recipe, align=align, run=limit[2])
    with pytest.raises(
        LaternaError,
        match=r"stage align: 2 × image missing, 1 × image cannot be read: .*max_faulty = 2;",
    ):
        train(ours, stage="align", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ours = msgspec.structs.replace(ours, run=limit[3])
    assert read_metrics(train(ours, stage="align", out=tmp_path / "out") / "metrics.jsonl")


def test_the_assistant_is_not_served_with_a_template_it_was_not_taught(
    recipe: Recipe, tmp_path: Path
) -> None:
    instruct = msgspec.structs.replace(recipe.instruct, template="vicuna_v1")
    ours = msgspec.structs.replace(recipe, instruct=instruct)
    with pytest.raises(LaternaError, match=r"instruct\.template = 'vicuna_v1' but .* 'own'"):
        train(ours, stage="instruct", out=tmp_path / "out")


def unseal(out: Path, name: str) -> None:
    """Own up to a change of a checkpoint's file, in the way that the refusal of it says."""
    with pytest.raises(LaternaError, match=rf"{name}: its size.*take its entry and `checks"):
        load_checkpoint(out)
    manifest = json.loads((out / "laterna.json").read_bytes())
    del manifest["checksum"], manifest["files"][name]
    (out / "laterna.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "opening", "ending"),
    [
        (
            "llama_2",
            "<s>[INST] <<SYS>>\nYou are a helpful language and vision assistant.",
            "natural language.\n<</SYS>>\n\n▣▣▣▣\nWhat colour is it? [/INST]",
        ),
        ("own", "<s>USER: ▣▣▣▣", "▣▣▣▣\nWhat colour is it? ASSISTANT:"),
    ],
)
def test_the_template_that_was_taught_is_stored_and_served(
    name: str,
    opening: str,
    ending: str,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    language = msgspec.structs.replace(recipe.language, template=name)
    stage = msgspec.structs.replace(recipe.instruct, template=name, max_steps=1, pack_length=0)
    ours = msgspec.structs.replace(recipe, language=language, instruct=stage)
    embedded: list[list[int]] = []
    real = prefix._merge

    def merge(
        language: Any, ids_rt: torch.Tensor, mask_rt: torch.Tensor, *others: Any
    ) -> torch.Tensor:
        embedded.extend(ids_rt.masked_fill(mask_rt, IMAGE_TOKEN_INDEX).tolist())
        return real(language, ids_rt, mask_rt, *others)

    monkeypatch.setattr(prefix, "_merge", merge)
    out = train(ours, stage="instruct", out=tmp_path / "out")
    taught = list(embedded)
    tokenizer = load_checkpoint(out).tokenizer
    text = load_template(name, tokenizer)
    assert (out / "template.jinja").read_text(encoding="utf-8") == text
    assert load_checkpoint(out).template == text

    def asked() -> list[int]:
        embedded.clear()
        ask = ["--image", str(tmp_path / "images" / "0.png"), "--prompt", "What colour is it?"]
        assert main(["chat", str(out), *ask, "--max-new-tokens", "1"]) == 0
        (ids,) = embedded
        return ids

    ids = asked()
    pieces = "".join("▣" if one == IMAGE_TOKEN_INDEX else tokenizer.decode([one]) for one in ids)
    assert (pieces[: len(opening)], pieces[-len(ending) :]) == (opening, ending)
    assert pieces.count("▣") == 4
    assert len(taught) > 0
    assert all(row[: len(ids)] == ids for row in taught), "training put the same before the answers"
    # The checkpoint's own file decides, not the name in its recipe.
    other = "{% for turn in messages %}{{ turn['content'] }}</s>{% endfor %}"
    (out / "template.jinja").write_text(other, encoding="utf-8")
    unseal(out, "template.jinja")
    ids = asked()
    assert (ids[:4], tokenizer.decode(ids[4:])) == (
        [IMAGE_TOKEN_INDEX] * 4,
        "\nWhat colour is it?</s>",
    )


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_a_start_of_another_recipe_is_refused(
    recipe: Recipe, tmp_path: Path, stage: StageName
) -> None:
    short = msgspec.structs.replace(
        recipe, align=msgspec.structs.replace(recipe.align, max_steps=1)
    )
    start = train(short, stage="align", out=tmp_path / "align")
    linear = msgspec.structs.replace(recipe.connector, kind="linear")
    other = msgspec.structs.replace(recipe, connector=linear)
    with pytest.raises(LaternaError, match=r"other \[connector\] settings than recipe tiny"):
        train(other, stage=stage, out=tmp_path / "out", init_from=start)


def test_a_run_that_was_done_is_not_done_again(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = msgspec.structs.replace(
        recipe, align=msgspec.structs.replace(recipe.align, max_steps=2)
    )
    out = train(short, stage="align", out=tmp_path / "a[run]")
    written = (out / "laterna.json").stat().st_mtime_ns
    other_threads = msgspec.structs.replace(short, run=RunSettings(workers=0))
    train(other_threads, stage="align", out=out)
    assert "a[run]: this very run was done before" in " ".join(capsys.readouterr().out.split())
    assert (out / "laterna.json").stat().st_mtime_ns == written
    other = msgspec.structs.replace(short, seed=4)
    with pytest.raises(
        LaternaError, match=r"another run, .* what differs: seed 3, now 4; .*overwrite"
    ):
        train(other, stage="align", out=out)
    assert (out / "laterna.json").stat().st_mtime_ns == written
    train(other, stage="align", out=out, overwrite=True)
    assert read_manifest(out).recipe.seed == 4


def test_a_run_without_targets_refuses_to_start(recipe: Recipe, tmp_path: Path) -> None:
    rows = json.loads((tmp_path / "records.json").read_text())
    for row in rows:
        row["conversations"] = row["conversations"][:1]
    (tmp_path / "records.json").write_text(json.dumps(rows))
    with pytest.raises(LaternaError, match="no record can be trained on"):
        train(recipe, stage="instruct", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_image_that_vanishes_is_left_out_and_counted(recipe: Recipe, tmp_path: Path) -> None:
    real = laterna.training.setup.prepare_stage

    def prepare(*args: Any, **kwargs: Any) -> Any:
        prepared = real(*args, **kwargs)
        (tmp_path / "images" / "3.png").unlink()
        return prepared

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laterna.training.setup, "prepare_stage", prepare)
        out = train(recipe, stage="align", out=tmp_path / "out")
    steps = read_metrics(out / "metrics.jsonl")
    assert steps[-1].faulty == 10  # once an epoch
    assert sum(step.images for step in steps) == 10 * 11


def test_adapters_of_the_last_layers_are_trained_kept_and_gone_on_with(
    recipe: Recipe, tmp_path: Path
) -> None:
    last = PartSettings(mode="lora-last-1", lr=2e-2)
    ours = msgspec.structs.replace(
        recipe,
        lora=LoraSettings(r=4, alpha=8, dropout=0.0),
        align=msgspec.structs.replace(recipe.align, vision=last, epochs=2),
        instruct=msgspec.structs.replace(recipe.instruct, vision=last, epochs=2),
    )
    align = train(ours, stage="align", out=tmp_path / "align")
    weights = load_file(align / "vision_adapters" / "adapter_model.safetensors")
    assert {name.split(".layers.")[1].partition(".")[0] for name in weights} == {"1"}
    assert all(weight.any() for name, weight in weights.items() if ".lora_B." in name)
    out = train(ours, stage="instruct", out=tmp_path / "out", init_from=align)
    after = load_file(out / "vision_adapters" / "adapter_model.safetensors")
    assert after.keys() == weights.keys()
    assert not any(torch.equal(after[name], weights[name]) for name in weights)


def test_adapters_over_4_bits_train_and_are_served(
    recipe: Recipe, colours: dict[str, tuple[int, int, int]], question: str, tmp_path: Path
) -> None:
    """QLoRA: the checkpoint holds adapters alone, and answers over the packed source."""
    pytest.importorskip("bitsandbytes")
    adapted = PartSettings(mode="lora", lr=2e-2)
    ours = msgspec.structs.replace(
        recipe,
        language=msgspec.structs.replace(recipe.language, quantize="4bit"),
        lora=LoraSettings(r=8, alpha=16, dropout=0.0),
        instruct=msgspec.structs.replace(recipe.instruct, language=adapted),
    )
    out = train(ours, stage="instruct", out=tmp_path / "out")
    assert read_manifest(out).parts == ("connector",)
    assert read_manifest(out).adapters == ("language",)
    assert losses(out)[-1] < 0.3 * losses(out)[0]
    assert read_metrics(out / "metrics.jsonl")[0].mfu is None
    prompts = [
        ([Turn(role="user", text=question)], [Image.new("RGB", (28, 28), colour)])
        for colour in colours.values()
    ]
    answers = generate_answers(load_checkpoint(out), prompts, Decoding(max_new_tokens=8))
    assert answers == list(colours)
