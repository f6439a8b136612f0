"""What benchmarks/gpu.py is held against: the same work by transformers' `Trainer`."""

from __future__ import annotations

import tempfile
import time
from typing import Any, NamedTuple

import torch
import transformers

from laterna.recipe import Recipe, StageName

STAGES: tuple[StageName, ...] = ("align", "instruct")
WORDS: dict[StageName, tuple[int, int]] = {"align": (20, 18), "instruct": (200, 130)}
"""Text tokens of a record, and how many of them are learned: the planner's assumptions."""


class Size(NamedTuple):
    """How much is measured."""

    records: int
    """In a step."""
    rows: int
    """In a forward pass."""
    steps: int
    """The first of which warms up."""
    requests: tuple[int, ...]
    new_tokens: int


def synchronise(device: torch.device) -> None:
    """Return when the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def trainers(recipe: Recipe, stage: StageName, size: Size, device: torch.device) -> dict[str, Any]:
    """Train steps of the same shapes by `Trainer` over Hugging Face's LLaVA."""
    from transformers import Trainer, TrainerCallback

    torch.manual_seed(0)
    model, image_token, side, tokens = hugging_face_llava(recipe, stage, device)
    rows = their_rows(stage, size, image_token, side, tokens, model.config.text_config.vocab_size)
    ends: list[float] = []

    class Marks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronise(device)
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        arguments = their_arguments(recipe, stage, size, device, out)
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Marks()]).train()
    seconds = (ends[-1] - ends[1]) / (size.steps - 1)  # the first warms up
    computed = size.records * (tokens + WORDS[stage][0])
    most = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {
        "seconds_a_step": seconds,
        "tokens_per_second": computed / seconds,
        "target_tokens_per_second": size.records * WORDS[stage][1] / seconds,
        "peak_bytes": most,
    }


def hugging_face_llava(
    recipe: Recipe, stage: StageName, device: torch.device
) -> tuple[Any, int, int, int]:
    """Return transformers' LLaVA of the recipe's shapes with the stage's parts free, the id that
    stands for an image, its side, and its tokens.
    """
    from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = AutoConfig.from_pretrained(recipe.vision.source)
    text = AutoConfig.from_pretrained(recipe.language.source)
    vision = getattr(vision, "vision_config", vision)
    image_token = text.vocab_size - 1
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token,
        vision_feature_layer=-2,
    )
    with device:
        model = LlavaForConditionalGeneration(config)
    model.requires_grad_(False)
    free = [model.model.multi_modal_projector]
    if stage == "instruct":
        free += [model.model.language_model, model.lm_head]
    for part in free:
        part.requires_grad_(True)
    return model, image_token, vision.image_size, (vision.image_size // vision.patch_size) ** 2


def their_rows(
    stage: StageName, size: Size, image_token: int, side: int, tokens: int, vocabulary: int
) -> list[dict[str, Any]]:
    """Return random records as `Trainer` takes them, all of one length, for all steps."""
    text, targets = WORDS[stage]
    rows = []
    for number in range(size.records * size.steps):
        noise = torch.Generator().manual_seed(number)
        words = torch.randint(5, vocabulary - 1, (text,), generator=noise)
        ids = torch.cat([torch.full((tokens,), image_token), words])
        labels = torch.cat([torch.full((tokens + text - targets,), -100), words[-targets:]])
        pixels = torch.randn(3, side, side, generator=noise)
        rows.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "labels": labels,
                "pixel_values": pixels,
            }
        )
    return rows


def their_arguments(
    recipe: Recipe, stage: StageName, size: Size, device: torch.device, out: str
) -> Any:
    """Return what a user of `Trainer` sets for the recipe's stage."""
    settings = recipe.stage(stage)
    return transformers.TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=size.rows,
        gradient_accumulation_steps=size.records // size.rows,
        max_steps=size.steps,
        learning_rate=settings.connector.lr,
        lr_scheduler_type="cosine",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        optim="adamw_torch_fused",
        bf16=device.type == "cuda",
        gradient_checkpointing="checkpointing" in recipe.savings,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=device.type == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
        seed=0,
    )
