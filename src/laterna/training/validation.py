"""Validation: the loss on records that are not trained on, by training's own code, and answers.

Training goes on as if it had not been: the modules' modes and the attention are restored, and each
training step seeds anew what it draws at random.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
import torch
from torch import nn

from laterna.data.batches import collate
from laterna.inference.generation import continue_from
from laterna.model.attention.shared_prefix import plain_attention
from laterna.records import IMAGE_TOKEN_INDEX, Pack, Sample
from laterna.training.dataloader import FaultyImageError, Fill, feed
from laterna.training.objective import count_targets
from laterna.training.parallel import is_sharded
from laterna.training.throughput import SampleAnswer, Validation
from laterna.training.train_state import TrainState

ANSWERS = 3
"""Validation records that are answered, spread over all."""
ANSWER_TOKENS = 64
"""Longest of these answers, in tokens."""


class Validator:
    """Validates after every `every` steps (0: none) and after the last.

    Every rank must call it, and computes its share. Where ranks share the weights, there are no
    answers: they would take all ranks for every token.
    """

    def __init__(
        self,
        train_state: TrainState,
        samples: Sequence[Sample],
        fill: Fill,
        *,
        every: int,
        workers: int,
    ) -> None:
        self._train_state = train_state
        self._samples = samples
        self._fill = fill
        self._every = every
        self._workers = workers
        self._stage = msgspec.structs.replace(train_state.stage, epochs=1.0, max_steps=0)

    def after(self, step: int) -> Validation | None:
        """Validate after a step, counted from 1; None where none is due."""
        due = step == self._train_state.total or (self._every > 0 and step % self._every == 0)
        return self._validate() if due and len(self._samples) else None

    def _validate(self) -> Validation:
        begun = time.perf_counter()
        train_state = self._train_state
        answers: tuple[SampleAnswer, ...] = ()
        with _evaluating(train_state.objective), torch.no_grad():
            loss, targets, records = self._loss()
            if train_state.ranks.first and not is_sharded(train_state.model):
                answers = tuple(self._answers())
        train_state.clock.take_seconds()  # else the next step would have the tower's time
        mean = loss / max(targets, 1.0)
        return Validation(
            loss=mean if math.isfinite(mean) else None,  # JSON has no other number
            target_tokens=int(targets),
            records=int(records),
            seconds=time.perf_counter() - begun,
            answers=answers,
        )

    def _loss(self) -> list[float]:
        """Return the summed loss, target tokens and records, over all ranks."""
        train_state = self._train_state
        sums = [0.0, 0.0, 0.0]
        steps = feed(
            self._samples,
            self._stage,
            seed=0,
            fill=self._fill,
            workers=self._workers,
            ranks=train_state.ranks,
            even=train_state.ranks.count > 1,
        )
        for step in steps:
            loss = sum((train_state.model(batch) for batch in step.batches), torch.zeros(()))
            counted = (float(loss), count_targets(step.batches), len(step.ids))
            sums = [before + now for before, now in zip(sums, counted, strict=True)]
        return train_state.ranks.total(sums)

    def _answers(self) -> Iterator[SampleAnswer]:
        """Yield the answers; a record whose image cannot be read has none."""
        objective = self._train_state.objective
        places = np.unique(np.linspace(0, len(self._samples) - 1, ANSWERS).round().astype(int))
        kind = objective.assistant.device.type
        with (
            plain_attention(objective.assistant.language),
            torch.compiler.set_stance("force_eager"),
            torch.autocast(kind, torch.bfloat16, enabled=objective.in_half),
        ):
            for place in places.tolist():
                try:
                    yield self._answer(self._samples[place])
                except FaultyImageError:
                    continue

    def _answer(self, sample: Sample) -> SampleAnswer:
        assistant = self._train_state.objective.assistant
        first = sample.targets.index(True)
        end = (*sample.targets[first:], False).index(False) + first
        images = sum(slot < first for slot in sample.image_slots)
        prompt = Sample(
            id=sample.id,
            input_ids=sample.input_ids[:first],
            targets=(False,) * first,
            image_slots=sample.image_slots[:images],
            images=sample.images[:images],
            image_tokens=sample.image_tokens[:images],
        )
        batch = self._fill(collate([Pack(samples=(prompt,))]))
        answer = continue_from(assistant, batch, max_new_tokens=ANSWER_TOKENS)
        words = [token for token in prompt.input_ids if token != IMAGE_TOKEN_INDEX]
        decode = assistant.tokenizer.decode
        texts = [
            decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
            for ids in (words, answer, list(sample.input_ids[first:end]))
        ]
        return SampleAnswer(id=sample.id, prompt=texts[0], answer=texts[1], truth=texts[2])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode temporarily."""
    modes = [(one, one.training) for one in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode
