"""Assistants from elsewhere: `llava-hf` folders, original LLaVA folders, and our own.

A folder's layout is read from its JSON, not from its name. A layout is one file in this folder and
one line in `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from laterna.errors import LaternaError
from laterna.model.checkpoint import MANIFEST, holding, load_checkpoint
from laterna.model.importers.blip2 import TYPE, load_blip2
from laterna.model.importers.idefics import load_idefics
from laterna.model.importers.llava_hf import load_llava_hf
from laterna.model.importers.open_flamingo import FILE, load_open_flamingo
from laterna.model.importers.options import Options
from laterna.model.importers.original import load_original
from laterna.model.language.adapters import CONFIG_FILE, has_lora, merge_lora
from laterna.model.pretrained import found_in, json_of
from laterna.model.vlm import VisionLanguageModel
from laterna.model.weight_files import require_finite


class Layout(NamedTuple):
    """One form of an assistant in a folder."""

    looks_like: Callable[[dict[str, Any]], bool]
    """Tells by a folder's config.json whether it has this layout."""
    marked_by: str
    """The same in words, for error messages."""
    read: Callable[[str, Options], VisionLanguageModel]
    """Reads a folder or hub id."""


LAYOUTS: dict[str, Layout] = {
    "llava-hf": Layout(
        lambda config: config.get("model_type") == "llava" and "vision_config" in config,
        "type 'llava' with a `vision_config`",
        load_llava_hf,
    ),
    "idefics": Layout(
        lambda config: config.get("model_type") == "idefics", "type 'idefics'", load_idefics
    ),
    "blip2": Layout(
        lambda config: config.get("model_type") == TYPE, f"type {TYPE!r}, with a T5", load_blip2
    ),
    "original": Layout(
        lambda config: "mm_vision_tower" in config, "an `mm_vision_tower`", load_original
    ),
    "open_flamingo": Layout(  # which has none
        lambda _config: False, f"no config.json but a {FILE}", load_open_flamingo
    ),
}
"""Tried in this order."""


def read_model(
    source: str | Path,
    *,
    language: str = "",
    vision: str = "",
    template: str = "",
    fit: str = "",
) -> VisionLanguageModel:
    """Read the network of a Laterna checkpoint, or of a foreign folder (`LAYOUTS`).

    Arguments as in `laterna.load`. Raises LaternaError when the source is none of these,
    lacks a file, or holds weights that are not finite.
    """
    name = str(source)
    options = Options(language=language, vision=vision, template=template, fit=fit)
    if Path(name).is_dir() and (Path(name) / MANIFEST).is_file():
        if options != Options():
            raise LaternaError(
                f"{name}: a Laterna checkpoint already says this; leave the option out"
            )
        return load_checkpoint(name)
    model = LAYOUTS[layout_of(name)].read(name, options)
    require_finite(model, name)
    return model


def layout_of(source: str) -> str:
    """Return the layout of a foreign folder or hub id, a key of `LAYOUTS`, by its config.json.

    Raises LaternaError when it is none of them.
    """
    if not found_in(source, "config.json"):
        if found_in(source, FILE):
            return "open_flamingo"
        if found_in(source, CONFIG_FILE):
            raise LaternaError(
                f"{source}: adapters alone, as a LoRA run leaves them in checkpoint-N on its way: "
                "without config.json and non_lora_trainables.bin nothing says what they belong to, "
                "and the projector is not there. Give the folder that the run wrote at its end"
            )
        path = Path(source)
        if path.is_dir():
            found = f"not a Laterna checkpoint (no {MANIFEST}) and not a LLaVA model "
            found += f"(no config.json): {holding(path)}"
        elif path.exists():
            found = "it is a file"
        else:
            found = "no such folder here, and no model of that name that the hub gives"
        raise LaternaError(
            f"{source}: {found}. Give the folder of a Laterna checkpoint, of a llava-hf or an "
            "original LLaVA model, or the hub id of one of the latter two, as OWNER/NAME"
        )
    config = json_of(source, "config.json")
    for name, layout in LAYOUTS.items():
        if layout.looks_like(config):
            return name
    known = "; ".join(f"{name}: {layout.marked_by}" for name, layout in LAYOUTS.items())
    raise LaternaError(
        f"{source}: its config.json is of type {config.get('model_type')!r}, which is none that "
        f"is read. Known layouts, by their config.json: {known}"
    )


def merge_adapters(assistant: VisionLanguageModel) -> None:
    """Add an assistant's adapters into its weights, in place."""
    for name, module in assistant.adaptable().items():
        if has_lora(module):
            merge_lora(module)
            assistant.changed.add(name)
