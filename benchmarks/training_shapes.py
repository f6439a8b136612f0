"""What is trained in `training.py`: model shapes, their recipes, records and first weights.

A shape is a shipped recipe, with another encoder or random weights where it says so. Both sides
begin with the same weights: ours with a checkpoint, the baseline with its export.
"""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from msgspec.structs import replace
from rich.console import Console

from laterna.data.preparation import Prepared
from laterna.inference.assistant import Assistant
from laterna.model.checkpoint import save_checkpoint
from laterna.model.sources import resolve
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import (
    ConnectorSettings,
    PartSettings,
    Recipe,
    StageName,
    StageSettings,
    load_recipe,
)
from laterna.synthesis.run import INSTRUCTION_KINDS, synthesize
from laterna.training.dataloader import Order, feed, fill_pixels
from laterna.training.prepare import prepare_stage
from laterna.training.setup import begin, fit_connector
from laterna.world.dataset import write_world
from training_sides import Job

RATES = {"align": (1e-3, 0.0), "instruct": (2e-5, 2e-5)}
"""Learning rates of connector and language model: LLaVA-1.5's for AdamW, on both sides."""
CAPTIONED = 60
"""Drawn images of stage 1, of five captions each."""
FITTING_STEPS = 4
"""As in training: steps whose images the connector is fitted to."""
IMAGE_FOLDER = "images"


class Shape(NamedTuple):
    """Models of a size to measure at."""

    recipe: str
    """The shipped recipe that it is."""
    about: str
    """For people."""
    tower: dict[str, int] | None = None
    """Configuration of a CLIP encoder with random weights, in the recipe's encoder's place."""
    language: dict[str, int] | None = None
    """The same of a Llama, with the tokenizer of nano's."""
    halves: bool = False
    """Computes in bfloat16."""
    records: dict[str, int] | None = None
    """Records an optimizer step, by stage, where they are not the recipe's."""
    device: str = "cpu"


VIT_B_16 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
VIT_L_14 = VIT_B_16 | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 2}  # fmt: skip
FEW = {"align": 10, "instruct": 6}
"""Records a step, so that a step of a larger model takes a minute at most on one core."""
SHAPES: dict[str, Shape] = {
    "nano": Shape("nano", "the shipped nano bases, 64 tokens an image, float32"),
    "nano-bf16": Shape("nano", "the shipped nano bases, 64 tokens an image, bfloat16", halves=True),
    "smollm2-135m": Shape(
        "smollm2-135m",
        "SmolLM2-135M's weights behind a CLIP ViT-B/16 at 224 px with random ones, 196 tokens a "
        "image, bfloat16",
        tower=VIT_B_16,
        halves=True,
        records=FEW,
    ),
    "smollm2-135m-f32": Shape(
        "smollm2-135m",
        "SmolLM2-135M's weights behind a CLIP ViT-B/16 at 224 px with random ones, 196 tokens a "
        "image, float32",
        tower=VIT_B_16,
        records=FEW,
    ),
    "tiny": Shape(
        "nano",
        "three layers of width 32 with random weights, for tests",
        tower=TINY | {"image_size": 56, "patch_size": 14},
        language=TINY | {"vocab_size": 958, "max_position_embeddings": 1024},
        records=FEW,
    ),
    "llava-1.5-7b": Shape(
        "llava-1.5-7b",
        "LLaVA-1.5-7B's shapes (ViT-L/14 at 336 px, Llama 7B) with random weights, 576 tokens a "
        "image, bfloat16",
        tower=VIT_L_14,
        language=LLAMA_7B,
        halves=True,
        device="cuda",
    ),
}


def shapes_for(device: str) -> list[str]:
    """Return the shapes that a device is measured at."""
    return [name for name, shape in SHAPES.items() if shape.device == device and name != "tiny"]


def write_captions(folder: Path, images: int = CAPTIONED) -> Path:
    """Write stage 1's records, five captions about each drawn image; return the file."""
    write_world(folder / "captioned", images=images, seed=1)
    path = folder / "captions.json"
    synthesize(folder / "captioned", path, kinds=("caption",), seed=1)
    (folder / IMAGE_FOLDER).mkdir(exist_ok=True)
    return _with_images(folder, path, folder / "captioned" / IMAGE_FOLDER)


def write_instructions(folder: Path, replies: Path | None, photographs: Path | None) -> Path:
    """Write stage 2's records: GPT-4's published answers, and as many about drawn images.

    An answer's own photograph is not at hand: one of the folder `photographs` stands for it, or a
    drawn image; equal names get equal images. Without `replies` all records are drawn ones.
    """
    lines = replies.read_bytes().splitlines() if replies else []
    told = [msgspec.json.decode(line) for line in lines]
    names = list(dict.fromkeys(one["image"] for one in told))
    write_world(folder / "told", images=max(15, 2 * len(names)), seed=2)
    path = folder / "instructions.json"
    synthesize(folder / "told", path, kinds=INSTRUCTION_KINDS, seed=2, conversation_boxes=True)
    (folder / IMAGE_FOLDER).mkdir(exist_ok=True)
    _with_images(folder, path, folder / "told" / IMAGE_FOLDER)
    rows = msgspec.json.decode(path.read_bytes())
    drawn = sorted((folder / "told" / IMAGE_FOLDER).iterdir())
    shown = sorted(photographs.glob("*.jpg")) if photographs else drawn[::-1]
    for number, name in enumerate(names):
        shutil.copyfile(shown[number % len(shown)], folder / IMAGE_FOLDER / name)
    kept = {row["image"]: None for row in rows}
    kept = dict.fromkeys(islice(kept, max(15, len(names))))
    rows = [row for row in rows if row["image"] in kept]
    for number, one in enumerate(told):
        asked = {"from": "human", "value": f"<image>\n{one['instruction']}"}
        said = {"from": "gpt", "value": one["output"]}
        row = {"id": f"gpt4-{number}", "image": one["image"], "conversations": [asked, said]}
        rows.append(row)
    path.write_bytes(msgspec.json.encode(rows))
    return path


def _with_images(folder: Path, path: Path, images: Path) -> Path:
    """Copy a world's images beside the others, under names of its own."""
    world = images.parent.name
    rows = msgspec.json.decode(path.read_bytes())
    for row in rows:
        name = f"{world}-{row['image']}"
        if not (folder / IMAGE_FOLDER / name).exists():
            shutil.copyfile(images / row["image"], folder / IMAGE_FOLDER / name)
        row["image"] = name
    path.write_bytes(msgspec.json.encode(rows))
    return path


def recipe_of(shape: Shape, folder: Path, data: dict[StageName, Path], threads: int) -> Recipe:
    """Return a shape's recipe over the records: the shipped one, but for the same optimizer as the
    baseline has, AdamW, and for workers, whom neither side has.
    """
    shipped = load_recipe(shape.recipe)
    vision, language = shipped.vision, shipped.language
    if shape.tower:
        source = str(_write_tower(folder / "tower", shape.tower))
        vision = replace(vision, source=source, layer=-2, image_size=None)
    if shape.language:
        language = replace(language, source=str(_write_language(folder / "llama", shape.language)))
    stages: dict[str, StageSettings] = {}
    for name, path in data.items():
        stage, (connector, decoder) = shipped.stage(name), RATES[name]
        own = (shape.records or {}).get(name, stage.global_batch_size)
        stages[name] = replace(
            stage,
            data=str(path),
            images=str(path.parent / IMAGE_FOLDER),
            epochs=100.0,
            global_batch_size=own,
            optimizer="adamw",
            connector=PartSettings(mode="full", lr=connector),
            language=PartSettings(mode="full", lr=decoder) if decoder else PartSettings(),
        )
    return replace(
        shipped,
        threads=threads,
        vision=vision,
        language=language,
        # As LLaVA-1.5's: behind another one transformers' LLaVA has a second layer, and trains it.
        connector=ConnectorSettings(kind="mlp", depth=2, calibrate=True),
        prepared=str(folder / "prepared"),
        feature_cache="",
        precision="bf16" if shape.halves else "float32",
        run=replace(shipped.run, workers=0, save_minutes=0.0),
        **stages,
    )


def with_rows(recipe: Recipe, attention: str, pack_length: int) -> Recipe:
    """Return a recipe with another attention, and rows of so many tokens, one a forward pass."""
    if attention:
        recipe = replace(recipe, run=replace(recipe.run, attention=attention))
    if not pack_length:
        return recipe
    rows = {"pack_length": pack_length, "micro_batch_tokens": pack_length}
    align, instruct = replace(recipe.align, **rows), replace(recipe.instruct, **rows)
    return replace(recipe, align=align, instruct=instruct)


def _write_tower(folder: Path, settings: dict[str, int]) -> Path:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    if not folder.is_dir():
        torch.manual_seed(0)
        CLIPVisionModel(CLIPVisionConfig(**settings)).save_pretrained(folder)
        square = {"height": settings["image_size"], "width": settings["image_size"]}
        CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    return folder


def _write_language(folder: Path, settings: dict[str, int]) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if not folder.is_dir():
        torch.manual_seed(0)
        ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        model = LlamaForCausalLM(LlamaConfig(**settings, **ids))
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(resolve("builtin:nano-llama")).save_pretrained(folder)
    return folder


def make_job(shape: Shape, recipe: Recipe, stage: StageName, folder: Path, steps: int) -> Job:
    """Write what both sides of a stage begin with: weights, records in order, images."""
    recipe = replace(
        recipe,
        align=replace(recipe.align, max_steps=steps),
        instruct=replace(recipe.instruct, max_steps=steps),
    )
    assistant = begin(recipe, None)
    prepared = prepare_stage(
        assistant.tokenizer, assistant.image_tokens, recipe, stage, Console(quiet=True)
    )
    folder = folder / stage
    if not (folder / "start").is_dir():
        _write_start(assistant, prepared, recipe, stage, folder, "bf16" if shape.language else "")
    order = Order(prepared.samples, recipe.stage(stage), recipe.seed)
    drawn = [[prepared.samples[one] for one in order.of_step(step)] for step in range(steps)]
    records = folder / "records.json"
    records.write_bytes(msgspec.json.encode(drawn))
    return Job(
        recipe=recipe,
        stage=stage,
        steps=steps,
        start=folder / "start",
        exported=folder / "exported",
        records=records,
        images=Path(recipe.stage(stage).images),
        vocabulary=len(assistant.language.get_input_embeddings().weight),
        aside=folder,
    )


def _write_start(
    assistant: VisionLanguageModel,
    prepared: Prepared,
    recipe: Recipe,
    stage: StageName,
    folder: Path,
    precision: str,
) -> None:
    """Fit the connector as training does, and write the assistant in both forms."""
    fill = fill_pixels(assistant.prepare, prepared.images)
    first = feed(prepared.samples, recipe.stage(stage), seed=recipe.seed, fill=fill)
    seen = (batch for step in islice(first, FITTING_STEPS) for batch in step.batches)
    fit_connector(assistant, seen)
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / "start", assistant, recipe, stage=None, figures={})
    Assistant(assistant).export(folder / "exported", "hf", precision)
