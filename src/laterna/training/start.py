"""What a stage starts from: the recipe's parts, a checkpoint, or a connector alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from laterna.data.fingerprints import Fingerprints
from laterna.errors import LaternaError
from laterna.files import recover
from laterna.model.build import build_from_recipe
from laterna.model.checkpoint import MANIFEST, load_checkpoint, read_manifest
from laterna.model.pretrained import tensors_of, unwrapped
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import Batch

PROJECTOR_FILE = "mm_projector.bin"
PROJECTOR = "mm_projector."
"""What LLaVA's file has before the names of the connector's weights."""


def begin(
    recipe: Recipe, start: Path | None, known: Fingerprints | None = None
) -> VisionLanguageModel:
    """Return the assistant that a stage starts from. `known` is what is known of files.

    `start` is a checkpoint folder, or a file of a connector's weights: safetensors of ours, or
    LLaVA's `mm_projector.bin`, which may be named by its folder, as LLaVA's stage 1 leaves it.
    Raises LaternaError when it does not fit the recipe.
    """
    if start is None:
        return build_from_recipe(recipe)
    if not (start / MANIFEST).is_file() and (start / PROJECTOR_FILE).is_file():
        start = start / PROJECTOR_FILE
    if start.is_file():
        assistant = build_from_recipe(recipe)
        _take_connector(assistant, start)
        return assistant
    insist_start(recipe, start)
    return load_checkpoint(start, known)


def insist_start(recipe: Recipe, start: Path | None) -> None:
    """Raise LaternaError where it is known before any model is read that `start` is none."""
    if start is None:
        return
    recover(start)
    if not start.exists():
        raise LaternaError(f"{start}: no such start; name a checkpoint, or a file of weights")
    if start.is_file():
        if not tensors_of(str(start.parent), [start.name]):
            raise LaternaError(f"{start}: holds no weights")
    elif (start / MANIFEST).is_file() or not (start / PROJECTOR_FILE).is_file():
        before = read_manifest(start).recipe
        for name in ("vision", "connector", "language"):
            if getattr(before, name) != getattr(recipe, name):
                raise LaternaError(
                    f"{start}: was trained with other [{name}] settings than recipe {recipe.name}; "
                    "give both stages the same"
                )


@torch.no_grad()
def fit_connector(assistant: VisionLanguageModel, batches: Iterable[Batch]) -> None:
    """Fit a fresh connector to the pictures of some batches and to the language model's words.

    Every rank must be given the same batches, for each fits its own copy.
    """
    found: list[Tensor] = []
    for batch in batches:
        if batch.features_bnd is not None:
            found.append(batch.features_bnd.to(assistant.device))
        elif batch.pixels_bchw is not None:
            found.append(assistant.vision(batch.pixels_bchw.to(assistant.device)))
    if found:
        words_vd = assistant.language.get_input_embeddings().weight.float()
        length = float(words_vd.norm(dim=-1).square().mean().sqrt())
        assistant.connector.calibrate(torch.cat(found), length)


def _take_connector(assistant: VisionLanguageModel, path: Path) -> None:
    found = unwrapped(tensors_of(str(path.parent), [path.name]))
    state = dict(assistant.connector.state_dict())
    given = _named_as(list(state), found)
    wrong = [
        name
        for name, weight in state.items()
        if name not in given or given[name].shape != weight.shape
    ]
    if wrong or len(given) != len(state):
        listed = ", ".join(f"{name} {tuple(weight.shape)}" for name, weight in found.items())
        raise LaternaError(
            f"{path}: does not fit the recipe's connector, whose weights are "
            f"{', '.join(f'{name} {tuple(weight.shape)}' for name, weight in state.items())}; "
            f"found are {listed or 'none'}"
        )
    assistant.connector.load_state_dict(given)
    assistant.changed.add("connector")


def _named_as(names: list[str], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give LLaVA's weights our names: its layers are numbered with the GELUs between them."""
    theirs = {
        name.partition(PROJECTOR)[2]: weight for name, weight in found.items() if PROJECTOR in name
    }
    if not theirs:
        return found
    order = sorted(theirs, key=_layer_and_kind)
    return dict(zip(names, (theirs[name] for name in order), strict=False)) | {
        f"{name} of LLaVA": theirs[name] for name in order[len(names) :]
    }


def _layer_and_kind(name: str) -> tuple[int, bool]:
    """Order LLaVA's names by the number of their layer, weights before biases."""
    layer = name.rpartition(".")[0]
    return int(layer) if layer.isdigit() else 0, name.endswith("bias")
