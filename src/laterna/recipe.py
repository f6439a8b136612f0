"""A run's settings, typed: read from TOML, overridden on the command line, stored in checkpoints.

The docstring under a field is its help text. Unknown keys fail, with the key's place named.
Published values in the docstrings come from the LLaVA papers and scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, dataclass_transform, get_args

import msgspec

from laterna.bounds import require_bounds, wrong_value
from laterna.choices import KeysOf
from laterna.errors import LaternaError

Fit = Literal["pad", "crop", "resize", "anyres"]
ImagePosition = Literal["first", "keep"]
LossOn = Literal["answers", "answers-no-end", "chat", "all"]
Mode = Annotated[str, msgspec.Meta(pattern=r"^(frozen|full|lora|(lora-)?last-[1-9][0-9]*)$")]
MOST = 10**12  # a larger count is a typing error
Number = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Count = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
Workers = Annotated[int, msgspec.Meta(ge=0, le=1024)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]  # about what Adam moves a weight by in a step
Layers = Annotated[int, msgspec.Meta(ge=1, le=256)]
Width = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=10**8)]
Together = Annotated[int, msgspec.Meta(ge=1, le=10**6)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PartShare = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Grid = tuple[Annotated[int, msgspec.Meta(ge=1, le=64)], Annotated[int, msgspec.Meta(ge=1, le=64)]]
Engine = Literal["ddp", "fsdp"]
Saving = Literal["bf16", "checkpointing", "compile"]
Precision = Literal["float32", "bf16"]
OptimizerName = Literal["adamw", "adamw8bit", "muon"]
Schedule = Literal["cosine", "constant", "constant_with_warmup"]
Attention = Literal["sdpa", "flash_attention_2", "flex", "varlen"]
StageName = Literal["align", "instruct"]
Form = Literal["flamingo", "idefics"]
PartName = Literal["vision", "connector", "language"]
TrackerName = Annotated[str, KeysOf("laterna.training.trackers:TRACKERS")]
TemplateName = Annotated[str, KeysOf("laterna.data.template:SHIPPED_TEMPLATES", also=("own",))]
FormName = Annotated[str, KeysOf("laterna.data.sources:FORMS", also=("auto",))]
RECIPE_FOLDER = Path(__file__).parent / "recipes"


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all settings: immutable, named fields only, unknown keys fail."""


class VisionSettings(Settings):
    """The vision encoder and which of its features are used."""

    source: str
    """Folder or hub id of a Hugging Face vision model, `builtin:NAME` for one shipped with
    Laterna, or `package:NAME` for one that a Python package contains."""
    layer: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = -2
    """Hidden state that becomes the features. LLaVA: -2, the penultimate."""
    class_token: bool = False
    """Keep the class token among the features. LLaVA drops it, BLIP-2 keeps it."""
    final_norm: bool = False
    """Apply the encoder's final layer norm. BLIP-2: true; LLaVA: false."""
    image_size: Annotated[int, msgspec.Meta(ge=1, le=8192)] | None = None
    """Side of the prepared images in pixels, for encoders that take any; unset: their own."""
    fit: Fit = "pad"
    """How an image becomes square: `pad` with the encoder's mean colour (LLaVA-1.5), `crop` to
    its middle (CLIP), `resize` without regard to its proportions, or `anyres`: seen whole and
    again in tiles (LLaVA-NeXT)."""
    grids: tuple[Grid, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    """Under `anyres`, grids that an image may be tiled on: rows, columns. LLaVA-NeXT's five."""
    mixing: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    """Strength of a non-linear mixing of the features (`laterna lab projector`). 0: none."""


class ConnectorSettings(Settings):
    """The connector from vision features to the language model's embedding space."""

    kind: Annotated[str, KeysOf("laterna.model.connectors:CONNECTORS")] = "mlp"
    """`linear` (LLaVA), `mlp` (LLaVA-1.5), `pool` (merges neighboring patches), `qformer`
    (BLIP-2), `perceiver` (Idefics2) or `resampler` (Flamingo)."""
    depth: Layers = 2
    """Linear layers of an `mlp`, and of the `mlp` after a `pool`. LLaVA-1.5: 2."""
    activation: Literal["gelu", "none"] = "gelu"
    """Between the layers of an `mlp`. LLaVA-1.5: `gelu`. `none`: for `laterna lab projector`."""
    merge: Literal["mean", "shuffle"] = "mean"
    """How a `pool` merges patches: `mean`, or `shuffle` (space to depth, as in Idefics3)."""
    merge_side: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 2
    """Side of the squares that a `pool` merges, in patches. 2 leaves a quarter of the tokens."""
    queries: Width | None = None
    """Tokens an image becomes in a `qformer` (unset: 32, BLIP-2), `perceiver` (64, Idefics2) or
    `resampler` (64, Flamingo)."""
    blocks: Layers | None = None
    """Blocks. Default: 12 for a `qformer` (BLIP-2), 3 for a `perceiver` (Idefics2), 6 for a
    `resampler` (Flamingo)."""
    heads: Layers = 8
    """Attention heads of a `resampler`. OpenFlamingo: 8; IDEFICS: 16."""
    head_width: Width = 64
    """Width of each. OpenFlamingo: 64; IDEFICS: 96."""
    form: Form = "flamingo"
    """Layers of a `resampler`: `flamingo`: GELU; `idefics`: ReLU, and norms of queries and keys."""
    width: Width | None = None
    """Width of a `qformer` (default: 768, BLIP-2), or inside a `pool` (the language model's)."""
    source: str = ""
    """BLIP-2 checkpoint (folder or hub id) whose weights a `qformer` starts from."""
    calibrate: bool = False
    """Fit the first weights of a `linear`, `mlp` or `pool` to the scale of the features and of the
    word embeddings. LLaVA: false."""
    frozen_qformer: bool = False
    """Train only the linear layer after the `qformer`, in both stages. MiniGPT-4: true."""

    def count(self, name: Literal["queries", "blocks", "width"], *, default: int) -> int:
        """Return a number that the kind has a default for; LaternaError for less than 1."""
        value: int | None = getattr(self, name)
        if value is not None and value < 1:
            raise LaternaError(f"connector.{name} = {value}: at least 1 is needed")
        return default if value is None else value


class LanguageSettings(Settings):
    """The language model and its chat template."""

    source: str
    """Folder or hub id of a Hugging Face causal language model, or `builtin:NAME`."""
    template: TemplateName = "own"
    """Chat template: `own` (the tokenizer's), or a shipped one."""
    quantize: Literal["", "4bit"] = ""
    """`4bit`: load the layers in 4 bits by bitsandbytes (QLoRA). Only for stages in which the
    language model is `frozen` or `lora`."""


class CrossAttentionSettings(Settings):
    """Gated blocks before layers of the language model, in which text attends to images."""

    every: Count = 4
    """A block before one of so many layers. OpenFlamingo-3B: 1, -9B: 4; IDEFICS-9B: 4."""
    before: Literal["last", "first"] = "last"
    """Before which of them: the `last` (OpenFlamingo) or the `first` (IDEFICS)."""
    heads: Count = 8
    """Attention heads of a block. OpenFlamingo: 8; IDEFICS: those of its language model."""
    head_width: Count = 64
    """Width of each. OpenFlamingo: 64."""
    form: Form = "flamingo"
    """`flamingo`: layer norm, and 4 times as wide layers with GELU. `idefics`: RMS norm, also of
    queries and keys, and gated layers as wide as the language model's."""
    gate: Amount = 0.0
    """What the gates start at. 0: the language model first answers as without images."""


class FusionSettings(Settings):
    """How images meet the language model."""

    kind: Annotated[str, KeysOf("laterna.model.fusion:FUSIONS")] = "prefix"
    """`prefix`: image tokens stand in the row (LLaVA). `cross_attention`: gated blocks look at them
    (Flamingo). `encoder_decoder`: a T5's encoder reads them, its decoder answers (PaLI)."""
    cross_attention: CrossAttentionSettings = CrossAttentionSettings()
    """Of `cross_attention`."""


class LoraSettings(Settings):
    """LoRA adapters, for parts in mode `lora`."""

    r: Width = 128
    """Rank of the adapters. LLaVA-1.5: 128."""
    alpha: Width = 256
    """Adapters are scaled by alpha / r. LLaVA-1.5: 256."""
    dropout: PartShare = 0.05
    """Dropout on the adapters' inputs. LLaVA-1.5: 0.05."""
    targets: tuple[str, ...] = ()
    """Layers to adapt, by the end of their names (`q_proj`). Default: all linear but the head."""


class PartSettings(Settings):
    """What a stage does with one part of the assistant."""

    mode: Mode = "frozen"
    """What trains: `frozen` (nothing), `full` (all weights), `last-4` (the last 4 layers), `lora`
    (adapters) or `lora-last-4` (adapters in the last 4 layers)."""
    lr: Rate = 0.0
    """Peak learning rate."""


class SourceSettings(Settings):
    """One dataset of a mixture."""

    data: str
    """Instruction records: a JSON, JSON lines or Parquet file, the folder of a Hugging Face
    dataset, or `hub:OWNER/NAME`."""
    images: str = ""
    """Folder, zip or tar file that the records' image names are relative to."""
    allow_outside: bool = False
    """Take images outside the folder of `images` too: by whole paths, `..` or links. Whoever writes
    the data can then name any file of this machine."""
    form: FormName = "auto"
    """Form of the rows (docs/data.md). `auto`: detected from the columns."""
    weight: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 1.0
    """How often each record is used in an epoch. 0.5: half of the records; 2: every record twice;
    0: none, the source is for validation only."""
    subset: str = ""
    """Configuration of a hub dataset that has several."""
    split: str = "train"
    """Split of a Hugging Face dataset."""


class StageSettings(Settings):
    """One training stage: its data, its schedule and what trains."""

    data: str = ""
    """Instruction records: a JSON, JSON lines or Parquet file, the folder of a Hugging Face
    dataset, or `hub:OWNER/NAME`. For several datasets, use `sources`."""
    images: str = ""
    """Folder, zip or tar file that the records' image names are relative to."""
    allow_outside: bool = False
    """Take images outside the folder of `images` too, as in `SourceSettings`."""
    sources: tuple[SourceSettings, ...] = ()
    """A mixture of sources, each with its images and its weight, in the place of `data`."""
    validation: PartShare = 0.0
    """Share of each source's images, drawn by lot, whose records are for validation and not trained
    on (`run.eval_steps`)."""
    template: TemplateName = "own"
    """Chat template of this stage. LLaVA's stage 1: `plain`."""
    loss_on: LossOn = "answers"
    """Which tokens have loss: `answers` (LLaVA), `answers-no-end` (without their ends of turn),
    `chat` (users' turns too), `all` (the system prompt too)."""
    epochs: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    """Passes over the data; a fraction stops early. LLaVA-1.5: 1."""
    max_steps: Number = 0
    """Optimizer steps at most; 0: as many as the epochs hold."""
    global_batch_size: Together = 128
    """Records an optimizer step; LLaVA-1.5: 256 in stage 1, 128 in stage 2."""
    pack_length: Annotated[int, msgspec.Meta(ge=0, le=10**8)] = 0
    """Tokens per packed row. 0: no packing, one record per row."""
    shared_prefix: bool = False
    """Compute an image's tokens once for all its records of a step: they follow it in one row
    without seeing each other. Changes the order of the records, not their loss."""
    micro_batch_tokens: Tokens = 16384
    """Tokens per forward pass, padding included. Larger steps are split into micro-batches."""
    max_tokens: Tokens = 2048
    """Longest record, image tokens included; longer ones are dropped and counted."""
    warmup_ratio: Share = 0.03
    """Share of the steps in which the learning rate rises linearly. LLaVA: 0.03."""
    lr_scheduler_type: Schedule = "cosine"
    """After the warm-up: `cosine` falls to 0 (LLaVA), `constant_with_warmup` stays; `constant`
    stays at its peak from the first step."""
    optimizer: OptimizerName = "adamw"
    """`adamw` (LLaVA), `adamw8bit` (bitsandbytes; moments in 8 bits) or `muon` (for matrices;
    AdamW for everything else)."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    """The optimizer's weight decay; LLaVA: 0."""
    max_grad_norm: Amount = 1.0
    """Gradients are clipped to this norm. 0: not clipped. LLaVA (transformers' default): 1."""
    vision: PartSettings = PartSettings()
    """How the vision encoder trains."""
    connector: PartSettings = PartSettings()
    """How the connector trains."""
    language: PartSettings = PartSettings()
    """How the language model trains."""

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.sources):
            raise ValueError("give either `data` or `sources`")

    def mixture(self) -> tuple[SourceSettings, ...]:
        """Return the sources: those of `sources`, or the one that `data` and `images` name."""
        own = SourceSettings(data=self.data, images=self.images, allow_outside=self.allow_outside)
        return self.sources or (own,)

    def part(self, name: PartName) -> PartSettings:
        """Return the settings of one part of the assistant."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}[name]


class RunSettings(Settings):
    """How a run is carried out, which does not change its results: a run can resume with others."""

    attention: Attention = "sdpa"
    """How the language model attends: torch's `sdpa`; on a GPU `flash_attention_2` (the package
    flash-attn, with `bf16`) or `flex`, whose block masks skip what is masked; or `varlen`, which
    attends sample by sample and so skips it on a CPU too."""
    engine: Engine = "ddp"
    """Engine under `torchrun`. `ddp`: every rank holds all weights; `fsdp`: each holds a share."""
    workers: Workers = 2
    """Threads that prepare the next batches. 0: each batch is made when it is needed."""
    save_minutes: Amount = 10.0
    """Minutes between saved states, from which a killed run resumes. 0: use `save_steps` only."""
    save_steps: Number = 0
    """Steps between saved states. 0: use `save_minutes` only."""
    save_total_limit: Count = 2
    """Number of saved states to keep; older ones are deleted."""
    max_skipped: Number = 3
    """Steps in a row that may be skipped, for a loss or gradient that is not finite or for images
    that are all missing."""
    max_faulty: Number = 100
    """Records that may be left out for an image that is missing or cannot be read, at preparation
    and again while the stage trains, before the run stops."""
    eval_steps: Number = 0
    """Steps between validations: the loss on validation records (`validation`, or a source of
    weight 0), and a few answers. 0: at the end alone."""
    report_to: tuple[TrackerName, ...] = ()
    """Trackers that plot the run, beside `metrics.jsonl`: `tensorboard`, `trackio`. Each is an
    extra (`pip install 'laterna[tensorboard]'`)."""
    max_feature_gb: Amount = 50.0
    """Largest `feature_cache` in GB (10⁹ bytes). A larger one is refused before it is made."""


class Recipe(Settings, kw_only=True):
    """All settings of a run."""

    name: str
    """Name of the recipe; the run's folder is named after it."""
    seed: Seed = 0
    """Random seed: the connector's first weights, the order of the records, dropout."""
    threads: Workers = 0
    """CPU threads for torch. 0: torch chooses."""
    prepared: str = "runs/prepared"
    """Folder for prepared records (`laterna prepare`). Each set is prepared once."""
    image_position: ImagePosition = "keep"
    """Where `<image>` stands in its turn. `first`: moved before the words (LLaVA); `keep`: as in
    the record. A turn with several images always keeps its marks."""
    feature_cache: str = ""
    """Folder for the frozen encoder's features, computed once. Empty: computed at every step."""
    precision: Precision = "float32"
    """`bf16`: compute in bfloat16 (LLaVA); what trains stays in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory (LLaVA)."""
    compile: bool = False
    """Compile the language model's layers with torch.compile."""
    run: RunSettings = RunSettings()
    """How the run is carried out."""
    vision: VisionSettings
    """The vision encoder."""
    connector: ConnectorSettings = ConnectorSettings()
    """The connector."""
    language: LanguageSettings
    """The language model."""
    fusion: FusionSettings = FusionSettings()
    """How images meet the language model."""
    lora: LoraSettings = LoraSettings()
    """LoRA adapters, in both stages."""
    align: StageSettings
    """Stage 1, feature alignment: the connector learns from captions."""
    instruct: StageSettings
    """Stage 2, instruction tuning: connector and language model learn to answer questions."""

    @property
    def savings(self) -> tuple[Saving, ...]:
        """Return what saves the stages time or memory, in the order of `Saving`."""
        chosen = (self.precision == "bf16", self.gradient_checkpointing, self.compile)
        return tuple(name for name, yes in zip(get_args(Saving), chosen, strict=True) if yes)

    def with_savings(self, *names: Saving) -> Recipe:
        """Return the recipe with these savings and no others."""
        half: Precision = "bf16" if "bf16" in names else "float32"
        again, built = "checkpointing" in names, "compile" in names
        replace = msgspec.structs.replace
        return replace(self, precision=half, gradient_checkpointing=again, compile=built)

    def stage(self, name: StageName) -> StageSettings:
        """Return the settings of one stage."""
        return {"align": self.align, "instruct": self.instruct}[name]


def shipped_recipes() -> list[str]:
    """Return the names of the recipes inside the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a TOML file, or by the exact name of a shipped one.

    Raises LaternaError when the file is missing, is not TOML, or holds unknown or wrong keys.
    """
    path = Path(source)
    if str(source) in shipped_recipes():
        path = RECIPE_FOLDER / f"{source}.toml"
    if not path.is_file():
        known = ", ".join(shipped_recipes())
        raise LaternaError(f"{source}: no such recipe file; shipped recipes are: {known}")
    content = path.read_bytes()
    try:
        recipe = msgspec.toml.decode(content, type=Recipe)
    except msgspec.ValidationError as error:
        place, fault = wrong_value(error, msgspec.toml.decode(content))
        raise LaternaError(f"{path}: {place}{fault}" if place else f"{path}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = error if isinstance(error, msgspec.DecodeError) else "it is not text in UTF-8"
        raise LaternaError(f"{path}: not valid TOML: {reason}") from error
    require_bounds(recipe, lambda place: f"{path}: {place}")
    return recipe


def checked(recipe: Recipe) -> Recipe:
    """Check a recipe made in memory as those from files are, and return it. Raises LaternaError."""
    require_bounds(recipe, lambda place: f"recipe {recipe.name}: {place}")
    return recipe
