"""Checkpoints: folders of JSON and safetensors that hold the recipe and every part that trained.

laterna.json             format, version, recipe whole, stage, which parts are inside, figures
connector.safetensors    always inside
fusion.safetensors       only where the fusion has weights
template.jinja           the chat template at serving
tokenizer/               Hugging Face tokenizer files
language/, vision/       Hugging Face folders, only if trained in this or an earlier stage;
                         otherwise the recipe's source is read again
language_adapters/, vision_adapters/
                         adapters in peft's form, only where a part has them; its base is then not
                         inside unless it was trained too
metrics.jsonl            the stage's training figures by step, where they were kept

laterna.json has a checksum of itself and of every other file, and fingerprints of the sources that
are read again. All are checked at every load.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec.structs import replace
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from laterna.data.fingerprints import (
    FileHash,
    Fingerprints,
    check_signature,
    hash_all,
    read_json,
    what_is_torn,
    write_signed,
)
from laterna.errors import LaternaError, one_line
from laterna.files import Made, recover, some, write_atomically
from laterna.model.build import join
from laterna.model.language.adapters import has_lora, load_lora, own_weights, save_lora
from laterna.model.language.causal import load_language
from laterna.model.pretrained import quiet_transformers
from laterna.model.sources import base_fingerprint, local_weights
from laterna.model.vision import load_vision
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import PartName, Recipe, StageName
from laterna.version import __version__

FORMAT = 1
MANIFEST = "laterna.json"
KIND = "checkpoint"
PAGE = "training.html"
"""The page that `laterna report` adds to a checkpoint."""


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
    """Digest of all that decided the run (`training.resume`)."""
    sources: dict[PartName, str] = {}
    """Fingerprints of the local sources of the parts that are not inside."""
    files: dict[str, FileHash] = {}
    """Every file but this one, by its name in the folder; empty: an early version wrote it."""
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
    of: Mapping[str, str] | None = None,
    overwrite: bool = False,
    known: Fingerprints | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all; return its folder.

    `metrics` is a file of training figures to keep inside, `run` the digest of the run, `known`
    what is known of the sources' files. `of` is what else it is made of: a checkpoint that was made
    of the same is replaced, another one with `overwrite` only. When this returns, the disk has it.
    Raises LaternaError where `write_atomically` does, and when it cannot be written, a full disk
    included; an earlier checkpoint then stays as it was.
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
        sources=_sources(recipe, parts, known or Fingerprints()),
        figures=figures,
    )
    writing = write_atomically(folder, _made(recipe, stage, run, of), overwrite=overwrite)
    with writing as aside, quiet_transformers():
        aside.mkdir()
        _write_parts(aside, assistant, parts)
        for name, part in adapted.items():
            save_lora(part, aside / f"{name}_adapters")
        if metrics is not None:
            shutil.copyfile(metrics, aside / "metrics.jsonl")
        write_signed(aside / MANIFEST, replace(manifest, files=hash_all(aside)))
    return folder


def _made(recipe: Recipe, stage: StageName | None, run: str, of: Mapping[str, str] | None) -> Made:
    """Return the record that a checkpoint's folder keeps of itself."""
    by_run = {"recipe": recipe.name, "stage": str(stage), "run": run[:16]} if run else {}
    return Made(kind=KIND, of={**by_run, **(of or {})}, later=(PAGE,))


def _write_parts(aside: Path, assistant: VisionLanguageModel, parts: Collection[PartName]) -> None:
    for name, module in (("connector", assistant.connector), ("fusion", assistant.fusion)):
        whole = {key: weight.contiguous() for key, weight in module.state_dict().items()}
        if whole or name == "connector":
            save_file(whole, aside / f"{name}.safetensors")
    (aside / "template.jinja").write_text(assistant.template, encoding="utf-8")
    assistant.tokenizer.save_pretrained(aside / "tokenizer")
    if "language" in parts:
        weights = own_weights(assistant.language)
        assistant.language.save_pretrained(aside / "language", state_dict=weights)
    if "vision" in parts:
        assistant.vision.save(aside / "vision")


def _sources(
    recipe: Recipe, inside: Collection[PartName], known: Fingerprints
) -> dict[PartName, str]:
    """Return the fingerprints of the sources of the parts that are not inside, without those on the
    hub, whose revision can change without any weight.
    """
    named: dict[PartName, str] = {
        "vision": recipe.vision.source,
        "language": recipe.language.source,
    }
    return {
        part: base_fingerprint(source, known)
        for part, source in named.items()
        if part not in inside and local_weights(source)
    }


def holding(folder: Path) -> str:
    """Say what is in a folder that is no checkpoint, and which checkpoint of a run to name."""
    stages = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if stages:
        return f"it is the folder of a run: name the checkpoint of a stage, as {stages[-1]}"
    names = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    return f"it holds {some(names)}" if names else "it is empty"


def read_manifest(folder: Path) -> Manifest:
    """Read what a checkpoint says of itself.

    Raises LaternaError when the folder is missing, is no checkpoint, or is of another format.
    """
    path = folder / MANIFEST
    if not folder.exists():
        recover(folder)
    if not folder.is_dir():
        raise LaternaError(f"{folder}: no such checkpoint folder")
    if not path.is_file():
        raise LaternaError(
            f"{folder}: not a Laterna checkpoint, it has no {MANIFEST}; {holding(folder)}"
        )
    found = read_json(path)
    # First the format: the fields of another one are not known here.
    if found.get("format") != FORMAT:
        raise LaternaError(
            f"{path}: checkpoint format {found.get('format')}, but Laterna {__version__} reads "
            f"format {FORMAT}; use the version of Laterna that wrote it "
            f"({found.get('laterna', 'unknown')}), or train again"
        )
    try:
        check_signature(found, path, wanted=False)
        return msgspec.convert(found, Manifest)
    except msgspec.ValidationError as error:
        raise LaternaError(f"{path}: not a readable manifest: {error}") from error
    except LaternaError as error:
        raise LaternaError(
            f"{error}: it is damaged, or was edited; copy the checkpoint again or train anew, or "
            "take the line `checksum` out of it if you meant what you changed"
        ) from error


def require_whole(folder: Path, manifest: Manifest, names: Collection[str] = ()) -> None:
    """Raise LaternaError, naming the file, where a checkpoint does not have the bytes that were
    written. `names`: the files to check; empty: all.
    """
    files = {name: one for name, one in manifest.files.items() if not names or name in names}
    torn = what_is_torn(folder, files)
    if torn:
        raise LaternaError(
            f"{torn}, so the checkpoint is damaged; copy it again, or remove it and train anew (if "
            f"you changed that file yourself, take its entry and `checksum` out of {MANIFEST})"
        )


def checkpoint_fingerprint(folder: Path, known: Fingerprints) -> str:
    """Return a fingerprint of the network and template in a checkpoint, whatever its path, its time
    and the figures of its run.
    """
    manifest = read_manifest(folder)
    if not manifest.files:
        return known.of(str(folder / MANIFEST))
    decisive = (".safetensors", "template.jinja", "tokenizer.json")
    files = {n: one.sha256 for n, one in manifest.files.items() if n.endswith(decisive)}
    content = (manifest.parts, manifest.adapters, manifest.sources, files)
    return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def load_checkpoint(folder: str | Path, known: Fingerprints | None = None) -> VisionLanguageModel:
    """Load an assistant as it was saved, ready to answer. `known` is what is known of files.

    Raises LaternaError when the folder is no checkpoint of this format, lacks a file or has a
    damaged one, or when the source of a part that is not inside is missing or has changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    require_whole(folder, manifest)
    recipe = manifest.recipe
    _require_same_sources(folder, manifest, known or Fingerprints())
    template = _existing(folder / "template.jinja").read_text(encoding="utf-8")
    inside: dict[PartName, Path] = {
        name: _existing(folder / name) for name in manifest.parts if name != "connector"
    }
    vision = load_vision(recipe.vision, inside.get("vision"))
    language, tokenizer, _ = load_language(
        recipe.language, inside.get("language"), _existing(folder / "tokenizer")
    )
    model = join(recipe, vision, language, tokenizer=tokenizer, template=template)
    for part, module in (("connector", model.connector), ("fusion", model.fusion)):
        if part == "connector" or module.state_dict():
            _load_weights(module, _existing(folder / f"{part}.safetensors"))
    model.changed = set(manifest.parts)
    model.stage = manifest.stage
    for name in manifest.adapters:
        load_lora(model.adaptable()[name], _existing(folder / f"{name}_adapters"))
    return model


def _require_same_sources(folder: Path, manifest: Manifest, known: Fingerprints) -> None:
    now = _sources(manifest.recipe, manifest.parts, known)
    for part, before in manifest.sources.items():
        if now.get(part, before) != before:
            source = getattr(manifest.recipe, part).source
            raise LaternaError(
                f"{source}: holds another {part} model than the one that {folder} was trained "
                "with, whose weights it needs; put that one back, or train again"
            )


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
        raise LaternaError(
            f"{path}: does not fit the recipe's {path.stem}: {one_line(error)}"
        ) from error
