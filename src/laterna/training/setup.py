"""Setting up a stage: the run itself, its first weights, its records and images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import rich
import torch
from rich.console import Console
from torch import Tensor

from laterna.data.fingerprints import Fingerprints
from laterna.data.preparation import FINGERPRINTS, Prepared
from laterna.errors import LaternaError
from laterna.files import sweep
from laterna.model import checkpoint as checkpoints
from laterna.model.attention.shared_prefix import (
    FLASH,
    FLEX,
    plain_attention,
    require_packing,
)
from laterna.model.attention.varlen import use_varlen_attention
from laterna.model.build import build_from_recipe, fast_dtype, slow_half_line
from laterna.model.checkpoint import MANIFEST, load_checkpoint
from laterna.model.language.causal import encodes, positions_of
from laterna.model.pretrained import tensors_of, unwrapped
from laterna.model.vision.feature_cache import cached_features
from laterna.model.vlm import VisionLanguageModel
from laterna.progress import shown_progress
from laterna.recipe import Recipe, StageName, StageSettings
from laterna.records import Batch
from laterna.training.checks import PROJECTOR_FILE, require_start
from laterna.training.dataloader import FAULTS, Fill, feed, fill_features, fill_pixels
from laterna.training.loop import require_few_faulty
from laterna.training.parallel import Ranks, without_weights
from laterna.training.prepare import prepare_stage
from laterna.training.resume import States, run_digest
from laterna.training.stages import FROZEN, apply_stage, stage_table
from laterna.training.throughput import Meter, set_up_meter

PROJECTOR = "mm_projector."
"""Prefix of the connector's weights in LLaVA's file."""
FITTING_STEPS = 4
"""Steps whose images a connector is fitted to (`connector.calibrate`)."""


@dataclass(frozen=True)
class StageRun:
    """One stage of a run: what is trained, from what, where to, by which ranks."""

    recipe: Recipe
    stage: StageName
    out: Path
    """The checkpoint that the stage will become."""
    init_from: Path | None
    ranks: Ranks
    console: Console
    """Quiet on all ranks but the first."""
    known: Fingerprints
    """What is known of files at this start."""
    digest: str
    """Of all that decides what the stage learns (`resume.run_digest`)."""

    @property
    def settings(self) -> StageSettings:
        """The stage's settings."""
        return self.recipe.stage(self.stage)

    @property
    def metrics(self) -> Path:
        """The file of figures by step, until the checkpoint holds them."""
        return self.out.with_name(f"{self.out.name}.metrics.jsonl")

    @cached_property
    def states(self) -> States:
        """The saved states, beside the checkpoint."""
        folder = self.out.with_name(f"{self.out.name}.state")
        return States(folder, self.digest, self.ranks, keep=self.recipe.run.save_total_limit)

    @property
    def sharded(self) -> bool:
        """Whether no rank will hold the whole model."""
        return self.ranks.count > 1 and self.recipe.run.engine == "fsdp"

    def is_done(self) -> bool:
        """Say whether this run's checkpoint is there. Raises LaternaError for a damaged one."""
        if not (self.out / MANIFEST).is_file():
            return False
        manifest = checkpoints.read_manifest(self.out)
        done = manifest.run == self.digest
        if done:
            checkpoints.require_whole(self.out, manifest)
        return done


def open_run(
    recipe: Recipe, stage: StageName, out: Path, init_from: Path | None, ranks: Ranks
) -> StageRun:
    """Fingerprint what the run depends on, and return the run."""
    with ranks.first_alone():  # fingerprints are cached, so the others need not read again
        sweep(Path(recipe.prepared) / FINGERPRINTS)
        known = Fingerprints(Path(recipe.prepared) / FINGERPRINTS)
        digest = run_digest(recipe, stage, init_from, known)
    console = rich.get_console() if ranks.first else Console(quiet=True)
    return StageRun(recipe, stage, out, init_from, ranks, console, known, digest)


class Setup(NamedTuple):
    """What a stage trains, and on what, before the first step."""

    assistant: VisionLanguageModel
    """With the stage applied to it."""
    prepared: Prepared
    fill: Fill
    meter: Meter


def set_up(run: StageRun, *, goes_on: bool) -> Setup:
    """Read the models, prepare the records, and apply the stage; `goes_on`: a state is there."""
    recipe, settings, ranks = run.recipe, run.settings, run.ranks
    assistant = _first_model(run)
    with ranks.first_alone():
        prepared = prepare_stage(
            assistant.tokenizer,
            assistant.image_tokens,
            recipe,
            run.stage,
            run.console,
            known=run.known,
            positions=positions_of(assistant.language.config),
        )
    which = [prepared.examples[reason] for reason in FAULTS if reason in prepared.examples]
    require_few_faulty(prepared.dropped, recipe.run, f"stage {run.stage}", which)
    with ranks.first_alone():
        fill = _images(run, assistant, prepared)
    # Sharded weights come from rank 0, whatever the others hold.
    fits = recipe.connector.calibrate and run.init_from is None and not goes_on
    if fits and (ranks.first or not run.sharded):
        first = feed(prepared.samples, settings, seed=recipe.seed, fill=fill)
        seen = (batch for step in islice(first, FITTING_STEPS) for batch in step.batches)
        fit_connector(assistant, seen)
    run.console.print(stage_table(run.stage, apply_stage(assistant, recipe, run.stage)))
    asks = [name for name in ("bf16", "muon") if name in (*recipe.savings, settings.optimizer)]
    if line := slow_half_line(ranks.device, *asks):
        run.console.print(line, soft_wrap=True, markup=False)
    # Before the savings: neither compiled nor checkpointed layers can be counted.
    in_half = "bf16" in recipe.savings and fast_dtype(ranks.device) is torch.bfloat16
    meter = set_up_meter(assistant, ranks, in_half=in_half)
    run.console.print(meter.line(), soft_wrap=True, markup=False)
    return Setup(assistant, prepared, fill, meter)


def _first_model(run: StageRun) -> VisionLanguageModel:
    """Return the model that the stage starts from, its attention set.

    Where ranks will share the weights, rank 0 alone reads them and keeps the language model on the
    CPU; the others have only its shapes until `parallel.shard` gives each its share.
    """
    recipe, ranks, settings = run.recipe, run.ranks, run.settings
    if not run.sharded:
        model = begin(recipe, run.init_from, run.known).to(ranks.device)
        set_attention(model, recipe, settings)
        return model

    def read() -> VisionLanguageModel:
        whole = begin(recipe, run.init_from, run.known)
        set_attention(whole, recipe, settings, device=ranks.device)
        _ = whole.plain_head  # computed from weights, which the others do not have
        return whole

    model = ranks.from_first(read, lambda whole: without_weights(whole, whole.language))
    if recipe.run.attention == "varlen":  # registered in this process too
        use_varlen_attention(model.language)
    model.vision.to(ranks.device)
    model.connector.to(ranks.device)
    return model


def set_attention(
    assistant: VisionLanguageModel,
    recipe: Recipe,
    settings: StageSettings,
    *,
    device: torch.device | None = None,
) -> None:
    """Choose the language model's attention, and see that it keeps the samples of a row apart.

    `device` is where it will train; None: where it is. Raises LaternaError for a choice that
    device, recipe or model do not allow.
    """
    name, language = recipe.run.attention, assistant.language
    device = device or assistant.device
    if encodes(language.config):
        if name != "sdpa":
            raise LaternaError(
                f"run.attention = {name!r}: an encoder-decoder takes its rows apart; use 'sdpa'"
            )
        return
    if name in ("flex", "flash_attention_2"):
        if device.type == "cpu":
            raise LaternaError(
                f"run.attention = '{name}': it cannot train on a CPU; use 'sdpa' or 'varlen'"
            )
        if name == "flash_attention_2":
            _require_flash(recipe, settings)
        language.set_attn_implementation(FLEX if name == "flex" else FLASH)
    if name == "varlen":
        use_varlen_attention(language)
    if settings.shared_prefix and not assistant.plain_head:
        raise LaternaError(
            "shared_prefix: this language model changes its logits after the head, which shared "
            "rows do not allow for; set shared_prefix = false"
        )
    if settings.pack_length or settings.shared_prefix or name == "varlen":
        if device == assistant.device:
            require_packing(language, shared_prefix=settings.shared_prefix)
            return
        with plain_attention(language):  # the model is still on the CPU
            require_packing(language, shared_prefix=settings.shared_prefix)


def _require_flash(recipe: Recipe, settings: StageSettings) -> None:
    if find_spec("flash_attn") is None:
        raise LaternaError(
            "run.attention = 'flash_attention_2' needs the package flash-attn; install it, or use "
            "'sdpa'"
        )
    if "bf16" not in recipe.savings:
        raise LaternaError(
            "run.attention = 'flash_attention_2' computes in 16 bits alone: set "
            "precision = 'bf16', or use 'sdpa'"
        )
    if settings.shared_prefix:
        raise LaternaError(
            "run.attention = 'flash_attention_2' takes no mask, which shared_prefix needs: set "
            "shared_prefix = false, or use 'flex' or 'sdpa'"
        )


def _images(run: StageRun, assistant: VisionLanguageModel, prepared: Prepared) -> Fill:
    recipe = run.recipe
    if not recipe.feature_cache or run.settings.vision.mode != FROZEN:
        return fill_pixels(assistant.prepare, prepared.images)
    seen = (prepared.samples, prepared.validation)
    names = list(dict.fromkeys(name for samples in seen for name in samples.image_names()))
    with shown_progress("vision features", total=len(names), console=run.console) as shown:
        store = cached_features(
            assistant.vision,
            assistant.prepare,
            names,
            prepared.images,
            Path(recipe.feature_cache),
            lambda done, _total: shown.update(done),
            max_gb=recipe.run.max_feature_gb,
            announce=lambda said: run.console.print(said, soft_wrap=True, markup=False),
        )
        shown.update(len(names))
    return fill_features(store)


def begin(
    recipe: Recipe, init_from: Path | None, known: Fingerprints | None = None
) -> VisionLanguageModel:
    """Return the assistant that a stage starts from. `known` is what is known of files.

    `init_from` is a checkpoint folder, or a file of a connector's weights: our safetensors, or
    LLaVA's `mm_projector.bin`, also by the folder that LLaVA's stage 1 writes it to.
    Raises LaternaError when it does not fit the recipe.
    """
    if init_from is None:
        return build_from_recipe(recipe)
    if not (init_from / MANIFEST).is_file() and (init_from / PROJECTOR_FILE).is_file():
        init_from = init_from / PROJECTOR_FILE
    if init_from.is_file():
        assistant = build_from_recipe(recipe)
        _take_connector(assistant, init_from)
        return assistant
    require_start(recipe, init_from)
    return load_checkpoint(init_from, known)


@torch.no_grad()
def fit_connector(assistant: VisionLanguageModel, batches: Iterable[Batch]) -> None:
    """Fit a fresh connector to the images of some batches and to the word embeddings.

    Every rank must get the same batches, for each fits its own copy.
    """
    device = next(assistant.connector.parameters()).device
    found: list[Tensor] = []
    for batch in batches:
        if batch.features_bnd is not None:
            found.append(batch.features_bnd.to(device))
        elif batch.pixels_bchw is not None:
            found.append(assistant.vision(batch.pixels_bchw.to(device)))
    if found:
        words_vd = assistant.language.get_input_embeddings().weight.float()
        rms_length = float(words_vd.norm(dim=-1).square().mean().sqrt())
        assistant.connector.calibrate(torch.cat(found), rms_length)


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
    """Rename LLaVA's weights to ours: its layers are numbered with the GELUs between them."""
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
    """Return a sort key for LLaVA's names: the number of the layer, weights before biases."""
    layer = name.rpartition(".")[0]
    return int(layer) if layer.isdigit() else 0, name.endswith("bias")
