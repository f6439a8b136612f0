"""Checkpoints: folders of JSON and safetensors that hold the recipe and every part that trained.

laterna.json             format, version, recipe whole, stage, which parts are inside, figures
connector.safetensors    always inside
template.jinja           the chat template at serving
tokenizer/               Hugging Face tokenizer files
language/, vision/       Hugging Face folders, only if trained in this or an earlier stage;
                         otherwise the recipe's source is read again
language_adapters/, vision_adapters/
                         adapters in peft's form, only where a part has them; its base is then not
                         inside unless it was trained too
metrics.jsonl            the stage's training figures by step, where they were kept
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.model.adapters import has_lora, load_lora, own_weights, save_lora
from laterna.model.build import join
from laterna.model.language import load_language
from laterna.model.pretrained import quiet_transformers
from laterna.model.vision import load_vision
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import PartName, Recipe, StageName
from laterna.version import __version__

FORMAT = 1
MANIFEST = "laterna.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself."""

    format: int
    laterna: str
    """Version of Laterna that wrote it."""
    recipe: Recipe
    stage: StageName | None
    """The stage it is the end of; None where none was trained."""
    parts: tuple[PartName, ...]
    """Parts whose weights are inside; the others are read from the recipe's sources."""
    adapters: tuple[PartName, ...] = ()
    """Parts whose adapters are inside, to be put on their weights."""
    run: str = ""
    """Digest of all that decided the run (`training.identity`)."""
    figures: dict[str, float]
    """Figures of the training run: losses, steps, seconds, weights by part (`PART_trained` and
    `PART_frozen`)."""


def save_checkpoint(
    folder: Path,
    assistant: VisionLanguageModel,
    recipe: Recipe,
    *,
    stage: StageName | None,
    figures: dict[str, float],
    metrics: Path | None = None,
    run: str = "",
) -> Path:
    """Write a checkpoint, whole or not at all, replacing one of the same name; return its folder.

    `metrics` is a file of training figures to keep inside, `run` the digest of what made it.
    Raises LaternaError when it cannot be written, a full disk included; one of the same name is
    then as it was.
    """
    parts: tuple[PartName, ...] = ("connector", *sorted(assistant.changed - {"connector"}))
    adapted = {name: part for name, part in assistant.adaptable().items() if has_lora(part)}
    manifest = Manifest(
        format=FORMAT,
        laterna=__version__,
        recipe=recipe,
        stage=stage,
        parts=parts,
        adapters=tuple(adapted),
        run=run,
        figures=figures,
    )
    with _spoken(folder), write_atomically(folder) as aside, quiet_transformers():
        aside.mkdir()
        connector = assistant.connector.state_dict()
        whole = {name: weight.contiguous() for name, weight in connector.items()}
        save_file(whole, aside / "connector.safetensors")
        (aside / "template.jinja").write_text(assistant.template, encoding="utf-8")
        assistant.tokenizer.save_pretrained(aside / "tokenizer")
        if "language" in parts:
            weights = own_weights(assistant.language)
            assistant.language.save_pretrained(aside / "language", state_dict=weights)
        if "vision" in parts:
            assistant.vision.save(aside / "vision")
        for name, part in adapted.items():
            save_lora(part, aside / f"{name}_adapters")
        if metrics is not None:
            shutil.copyfile(metrics, aside / "metrics.jsonl")
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (aside / MANIFEST).write_bytes(text + b"\n")
    return folder


@contextmanager
def _spoken(folder: Path) -> Iterator[None]:
    """Say what the system says, be it to Python or to the Rust of safetensors and tokenizers, whose
    own errors (of the latter plain `Exception`) have it in their text alone.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and "(os error " not in str(error):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise LaternaError(
            f"{folder}: cannot write the checkpoint: {reason}; make room there, or see that it "
            "may be written to, and run the same command again"
        ) from error


def read_manifest(folder: Path) -> Manifest:
    """Read what a checkpoint says of itself.

    Raises LaternaError when the folder is missing, is no checkpoint, or is of another format.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise LaternaError(f"{folder}: no such checkpoint folder")
    if not path.is_file():
        raise LaternaError(f"{folder}: not a Laterna checkpoint, it has no {MANIFEST}")
    try:
        found = json.loads(path.read_bytes())
        # The format comes first: another format's fields need not be known here.
        written = found.get("format") if isinstance(found, dict) else None
        if written != FORMAT:
            raise LaternaError(
                f"{path}: checkpoint format {written}, but Laterna {__version__} reads format "
                f"{FORMAT}; use the version of Laterna that wrote it "
                f"({found.get('laterna') if isinstance(found, dict) else 'unknown'}), "
                "or train again"
            )
        return msgspec.convert(found, Manifest)
    except (json.JSONDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise LaternaError(f"{path}: not a readable manifest: {error}") from error


def load_checkpoint(folder: str | Path) -> VisionLanguageModel:
    """Load an assistant as it was saved, ready to answer.

    Raises LaternaError when the folder is no checkpoint of this format or lacks a file, or when
    the source of a part that is not inside is missing.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    recipe = manifest.recipe
    template = _existing(folder / "template.jinja").read_text(encoding="utf-8")
    inside: dict[PartName, Path] = {
        name: _existing(folder / name) for name in manifest.parts if name != "connector"
    }
    vision = load_vision(recipe.vision, inside.get("vision"))
    language, tokenizer, _ = load_language(
        recipe.language, inside.get("language"), _existing(folder / "tokenizer")
    )
    model = join(recipe, vision, language, tokenizer=tokenizer, template=template)
    _load_weights(model.connector, _existing(folder / "connector.safetensors"))
    model.changed = set(manifest.parts)
    model.stage = manifest.stage
    for name in manifest.adapters:
        load_lora(model.adaptable()[name], _existing(folder / f"{name}_adapters"))
    return model


def _existing(path: Path) -> Path:
    if not path.exists():
        raise LaternaError(
            f"{path}: missing, though {MANIFEST} says it is there; the checkpoint is incomplete, "
            "copy it again"
        )
    return path


def _load_weights(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LaternaError(f"{path}: does not fit the recipe's connector: {reason}") from error
