"""The two sides of `training.py`, each run in a process of its own, and what is read off it.

The baseline is what a user would write today: transformers' `Trainer` over
`LlavaForConditionalGeneration`, with a collator that pads and masks the prompt. Our side is
`laterna.train`'s own run, stopped before it writes its checkpoint. Neither prefetches.

The baseline is handed the ids and masks that preparation made, so that both learn the same tokens
and neither spends time on tokenizing; it reads and prepares its images as it goes, as ours does.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import torch
from torch import Tensor

from laterna.recipe import Recipe, StageName
from laterna.records import IMAGE_TOKEN_INDEX, Sample
from laterna.training.throughput import speeds
from process_memory import forget_peak, in_memory

IGNORED = -100
"""The label of what is not learned, in transformers."""
MIB = 2**20


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One side of one stage."""

    recipe: Recipe
    stage: StageName
    steps: int
    start: Path
    """The checkpoint that ours begins with."""
    exported: Path
    """The same as a Hugging Face folder."""
    records: Path
    """The samples of each step."""
    images: Path
    vocabulary: int
    """Rows of the language model's embedding."""
    aside: Path
    """Folder for whatever is written."""
    batch: int = 0
    """Records a forward pass of the baseline; 0: our side."""
    off: tuple[str, ...] = ()
    """Parts of our side that are switched off, by their names in `training_parts`."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of the process in MiB, as Linux tells it; on a GPU what torch allocated."""

    imported: float
    """When all was imported, before any weight was read."""
    loaded: float
    """Before the first step, what reading left behind given back to the system."""
    peak: float
    """The most from then to the last step."""
    whole: float
    """The most in the life of the process (`ru_maxrss`)."""


class Filling(msgspec.Struct, frozen=True, kw_only=True):
    """What filling the feature cache took."""

    images: int
    cpu_seconds: float
    seconds: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to; times from the end of the first step, which warms up, to the last's."""

    losses: tuple[float, ...]
    """Of every step, the first included."""
    targets: int
    """Tokens learned in the timed steps."""
    cpu_seconds: float
    seconds: float
    memory: Memory
    filling: Filling | None = None
    mfu: float | None = None
    vision_share: float | None = None
    """Of the seconds; ours alone."""
    outside_share: float | None = None
    """Of the seconds, what is neither forward, backward nor optimizer; ours alone."""


class Gauge:
    """Reads clocks and memory as a run goes."""

    def __init__(self) -> None:
        self.imported = self._memory("VmRSS")
        self.marks: list[tuple[float, float]] = []

    def begin(self, model: torch.nn.Module) -> None:
        """Say that all is loaded and the first step comes.

        Every weight is read once: one whose file is mapped would else count as training's.
        """
        for weight in model.parameters():
            weight.detach().sum()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
            forget_peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.loaded = self._memory("VmRSS")

    def mark(self) -> None:
        """Say that a step has ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append((time.process_time(), time.perf_counter()))
        self.peak = self._memory("VmHWM")

    def measured(self, losses: Sequence[float], targets: Sequence[int], **more: Any) -> Measured:
        """Return what was read; `targets` are those of every step."""
        (cpu, clock), (last_cpu, last_clock) = self.marks[0], self.marks[-1]
        memory = Memory(
            imported=self.imported,
            loaded=self.loaded,
            peak=self.peak,
            whole=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        return Measured(
            losses=tuple(losses),
            targets=sum(targets[1:]),
            cpu_seconds=last_cpu - cpu,
            seconds=last_clock - clock,
            memory=memory,
            **more,
        )

    def _memory(self, name: str) -> float:
        if torch.cuda.is_available():
            high = name == "VmHWM"
            used = torch.cuda.max_memory_allocated() if high else torch.cuda.memory_allocated()
            return float(used) / MIB
        return in_memory(name)


def count_targets(sample: Sample) -> int:
    """Count the tokens that are learned; nothing predicts the first."""
    return sum(sample.targets[1:])


def run_side(job: Job) -> Measured:
    """Run one side."""
    return run_baseline(job) if job.batch else run_ours(job)


# --- the baseline ----------------------------------------------------------------------------


class PaddingCollator:
    """Samples to the tensors of a forward pass: padded to the longest, the prompt masked."""

    def __init__(self, images: Path, processor: Any, image_id: int, pad_id: int) -> None:
        self.images = images
        self.processor = processor
        self.image_id = image_id
        self.pad_id = pad_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return ids, mask, labels and pixels."""
        from PIL import Image

        rows = [self._row(sample) for sample in samples]
        width = max(len(ids) for ids, _ in rows)
        ids = [row + [self.pad_id] * (width - len(row)) for row, _ in rows]
        labels = [row + [IGNORED] * (width - len(row)) for _, row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row, _ in rows]
        names = [name for sample in samples for name in sample.images]
        shown = [Image.open(self.images / name).convert("RGB") for name in names]
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "labels": torch.tensor(labels),
            "pixel_values": self.processor(images=shown, return_tensors="pt")["pixel_values"],
        }

    def _row(self, sample: Sample) -> tuple[list[int], list[int]]:
        counts = iter(sample.image_tokens)
        ids: list[int] = []
        labels: list[int] = []
        for token, learned in zip(sample.input_ids, sample.targets, strict=True):
            is_image = token == IMAGE_TOKEN_INDEX
            places = next(counts) if is_image else 1
            ids += [self.image_id if is_image else token] * places
            labels += [token if learned and not is_image else IGNORED] * places
        labels[0] = IGNORED
        return ids, labels


def run_baseline(job: Job) -> Measured:
    """Train by `Trainer`, `job.batch` records a forward pass."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration, Trainer, TrainerCallback

    torch.set_num_threads(job.recipe.threads or torch.get_num_threads())
    gauge = Gauge()
    steps = msgspec.json.decode(job.records.read_bytes(), type=list[list[Sample]])
    model = LlavaForConditionalGeneration.from_pretrained(job.exported, dtype=torch.float32)
    collator = _collator(job, steps, model, AutoProcessor.from_pretrained(job.exported))
    losses: list[float] = []

    class Marks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            gauge.begin(model)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            gauge.mark()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    class InOrder(Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(
                [sample for step in steps for sample in step],
                batch_sampler=list(_batches([len(step) for step in steps], job.batch)),
                collate_fn=self.data_collator,
            )

    with tempfile.TemporaryDirectory() as out:
        InOrder(
            model=model,
            args=_arguments(job, len(steps[0]), out),
            data_collator=collator,
            train_dataset=[sample for step in steps for sample in step],
            optimizers=_optimizer(job, model),
            callbacks=[Marks()],
        ).train()
    return gauge.measured(losses, [sum(map(count_targets, step)) for step in steps])


def _collator(
    job: Job, steps: Sequence[Sequence[Sample]], model: Any, processor: Any
) -> PaddingCollator:
    """Undo what the export added: a row for `<image>`, whose logit would take part in the loss.

    An id that no record holds stands for the image instead, and another one for padding.
    """
    model.resize_token_embeddings(job.vocabulary)
    held = {token for step in steps for sample in step for token in sample.input_ids}
    image_id, pad_id = [one for one in range(job.vocabulary - 1, -1, -1) if one not in held][:2]
    model.config.image_token_id = image_id
    return PaddingCollator(job.images, processor.image_processor, image_id, pad_id)


def _batches(records: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Yield the records of each forward pass; none holds records of two steps."""
    first = 0
    for count in records:
        end = first + count
        yield from (list(range(one, min(one + batch, end))) for one in range(first, end, batch))
        first = end


def _arguments(job: Job, records: int, out: str) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=job.batch,
        gradient_accumulation_steps=-(-records // job.batch),
        max_steps=job.steps,
        max_grad_norm=job.recipe.stage(job.stage).max_grad_norm,
        bf16="bf16" in job.recipe.savings,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=job.recipe.seed,
    )


def _optimizer(job: Job, model: Any) -> tuple[Any, Any]:
    """Free what the stage trains; return our optimizer and our schedule over it."""
    from laterna.training.optimizers import BETAS
    from laterna.training.train_state import lr_factor

    stage = job.recipe.stage(job.stage)
    model.requires_grad_(False)
    parts = [(model.model.multi_modal_projector, stage.connector)]
    parts += [(model.model.language_model, stage.language), (model.lm_head, stage.language)]
    groups, seen = [], set()
    for part, settings in parts:
        if settings.mode == "full":
            part.requires_grad_(True)
            weights = [weight for weight in part.parameters() if id(weight) not in seen]
            seen |= {id(weight) for weight in weights}
            groups.append({"params": weights, "lr": settings.lr})
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=stage.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, job.steps, stage.warmup_ratio)
    )
    return optimizer, schedule


# --- ours ------------------------------------------------------------------------------------


class EnoughError(Exception):
    """The last step was done: nothing more is to be measured."""


def run_ours(job: Job) -> Measured:
    """Train by `laterna.training.run.train`, whose steps are told to the gauge."""
    from laterna.training import run, setup
    from training_parts import PARTS

    gauge = Gauge()
    real_steps, real_cache = run.train_steps, setup.cached_features
    done: list[Any] = []
    fillings: list[Filling] = []

    def stepping(train_state: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        gauge.begin(train_state.objective)
        for figures in real_steps(train_state, *args, **kwargs):
            gauge.mark()
            done.append(figures)
            if len(done) == job.steps:
                raise EnoughError
            yield figures

    def filling(tower: Any, preparer: Any, names: Sequence[str], *args: Any, **more: Any) -> Any:
        cpu, clock = time.process_time(), time.perf_counter()
        store = real_cache(tower, preparer, names, *args, **more)
        took = (time.process_time() - cpu, time.perf_counter() - clock)
        fillings.append(Filling(images=len(names), cpu_seconds=took[0], seconds=took[1]))
        return store

    with ExitStack() as patches, tempfile.TemporaryDirectory(dir=job.aside) as out:
        patches.enter_context(patch.object(run, "train_steps", stepping))
        patches.enter_context(patch.object(setup, "cached_features", filling))
        for name in job.off:
            patches.enter_context(PARTS[name]())
        try:
            run.train(job.recipe, stage=job.stage, out=Path(out, "out"), init_from=job.start)
        except EnoughError:
            pass
        else:
            raise SystemExit("the run ended before its last step was measured")
    fast = speeds(done[1:])
    return gauge.measured(
        [one.loss for one in done],
        [one.target_tokens for one in done],
        filling=fillings[0] if fillings else None,
        mfu=fast.mfu,
        vision_share=fast.vision,
        outside_share=fast.loop,
    )


def _path(_kind: type, written: str) -> Path:
    return Path(written)


def main() -> None:
    """Run the job in the file that the command line names, and write what it came to beside it."""
    path = Path(sys.argv[1])
    measured = run_side(msgspec.json.decode(path.read_bytes(), type=Job, dec_hook=_path))
    path.with_suffix(".measured.json").write_bytes(msgspec.json.encode(measured))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
