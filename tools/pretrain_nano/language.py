"""Pretrains the nano language model on text alone: descriptions and talk about them.

It learns to answer from a description that stands where an image will stand later, so that the
two stages on images only have to make it see. Only what follows a description is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import torch
from rich.progress import track
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from laterna.files import Made, write_atomically
from laterna.model.attention.varlen import use_varlen_attention
from laterna.model.pretrained import load_weights, read_part
from pretrain_nano.corpus import Document, write_document
from pretrain_nano.described import (
    Described,
    TextBatch,
    collate_described,
    describe_samples,
    target_logits,
)
from pretrain_nano.saving import save_half
from pretrain_nano.settings import LanguagePretraining, report, scheduled
from pretrain_nano.tokenizer import train_tokenizer

_TOKENIZER_DOCUMENTS = 2500
_LIKENESS = 4.0
_CARRIED = 0.05
"""Share of what a head finds that it passes on at first."""
_EMBEDDING = 0.05
"""Standard deviation of the embeddings at first, so that they are about as long as what heads
pass on."""


def language_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the shipped language model's config: 4 layers, 192 wide, tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def make_tokenizer(settings: LanguagePretraining) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the first texts of the corpus."""
    documents = (write_document(settings.seed, index) for index in range(_TOKENIZER_DOCUMENTS))
    return train_tokenizer(map(_whole_text, documents), settings.vocabulary)


def _whole_text(document: Document) -> str:
    turns = [turn for record in document.records for turn in record.turns]
    said = " ".join(f"USER: {turn.text} ASSISTANT: {turn.text}" for turn in turns)
    return "".join(document.description.words) + "\n" + said


class Documents(IterableDataset[list[Described]]):
    """Yields the documents of one optimizer step after another, written when asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: LanguagePretraining) -> None:
        self.tokenizer, self.settings = tokenizer, settings

    def __iter__(self) -> Iterator[list[Described]]:
        numbers = count()
        for step in range(self.settings.steps):
            documents: list[Described] = []
            while sum(one.length for one in documents) < self.settings.step_tokens:
                document = self._document(next(numbers), step)
                documents.append(describe_samples(document, self.tokenizer))
            yield documents

    def _document(self, number: int, step: int) -> Document:
        schedules = self.settings.curriculum, self.settings.tables, self.settings.squares
        toys, tables, squares = (
            scheduled(schedule, step, self.settings.steps) for schedule in schedules
        )
        settings = self.settings
        return write_document(
            settings.seed,
            number,
            int(toys),
            tables,
            squares,
            relations=settings.relations,
            counts=settings.counts,
            repeats=settings.repeats,
        )


def batches(
    tokenizer: PreTrainedTokenizerFast, settings: LanguagePretraining
) -> Iterator[TextBatch]:
    """Yield packed batches, prepared ahead by one worker process."""
    loader = DataLoader(
        Documents(tokenizer, settings),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        collate_fn=partial(collate_described, pack_length=settings.pack_length),
    )
    yield from loader


@torch.no_grad()
def begin_by_matching(model: LlamaForCausalLM) -> None:
    """Start every head as one that attends to like tokens and carries over what it finds there.

    Looking up is just that, and from an ordinary start it takes long to be found. Query and key
    weights are equal in those rotary pairs that turn slowly, so that likeness counts at any
    distance, and output times value weights are a small identity: the mimetic initialization of
    Trockman and Kolter (2023), which found both in trained transformers.
    """
    width, heads = int(model.config.hidden_size), int(model.config.num_attention_heads)
    half = width // heads // 2
    slow = torch.tensor(
        [
            head * 2 * half + part + pair
            for head in range(heads)
            for part in (0, half)
            for pair in range(half // 2, half)
        ]
    )
    # A head's logit between like tokens is then _LIKENESS: both are `width` long, squared.
    scale = (_LIKENESS * (2 * half) ** 0.5 * heads / len(slow)) ** 0.5
    model.get_input_embeddings().weight.mul_(_EMBEDDING / model.config.initializer_range)
    for layer in model.model.layers:
        attention = layer.self_attn
        matching = nn.init.orthogonal_(torch.empty(len(slow), width)) * scale
        attention.q_proj.weight[slow] = attention.k_proj.weight[slow] = matching
        values = nn.init.orthogonal_(torch.empty(width, width)) * _CARRIED**0.5
        attention.v_proj.weight.copy_(values)
        attention.o_proj.weight.copy_(values.T)


def muon_and_adamw(
    model: nn.Module, matrices: Sequence[nn.Parameter], lr: float
) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for some of a model's matrices, and AdamW for all its other weights."""
    chosen = {id(weight) for weight in matrices}
    others = [
        weight
        for name, weight in model.named_parameters()
        if id(weight) not in chosen and "relative_attention_bias" not in name
    ]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    return muon, adamw


def optimizers(
    model: LlamaForCausalLM, settings: LanguagePretraining
) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the layers' matrices and AdamW for embeddings and norms."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    return muon_and_adamw(model, matrices, settings.lr)


def lr_factor(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a short rise, a plateau, a fall to nothing."""
    rise, fall = 0.03 * steps, 0.35 * steps
    return min(1.0, (step + 1) / rise, (steps - step) / fall)


def lr_schedules(
    optimizers: Sequence[torch.optim.Optimizer], steps: int
) -> list[torch.optim.lr_scheduler.LambdaLR]:
    """Return the schedule of `lr_factor` for each optimizer."""
    factor = partial(lr_factor, steps=steps)
    return [torch.optim.lr_scheduler.LambdaLR(one, factor) for one in optimizers]


def update(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    schedules: Sequence[torch.optim.lr_scheduler.LambdaLR],
) -> None:
    """Clip the gradients to a norm of 1 and make one step with every optimizer."""
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for one, schedule in zip(optimizers, schedules, strict=True):
        one.step()
        one.zero_grad()
        schedule.step()


def pretrain_language(settings: LanguagePretraining, out: Path) -> dict[str, float]:
    """Train tokenizer and language model, write both to `out`; return the last figures."""
    torch.manual_seed(settings.seed)
    tokenizer = make_tokenizer(settings)
    model = LlamaForCausalLM(language_config(tokenizer))
    begin_by_matching(model)
    return _learn(model, tokenizer, settings, out)


def go_on(begun: Path, settings: LanguagePretraining, out: Path) -> dict[str, float]:
    """Train the language model of folder `begun` further and write it to `out`.

    Raises LaternaError when the folder holds no such model with its tokenizer.
    """
    torch.manual_seed(settings.seed)
    tokenizer = read_part(
        lambda: PreTrainedTokenizerFast.from_pretrained(begun), source=str(begun), what="tokenizer"
    )
    model = load_weights(LlamaForCausalLM, str(begun), what="language model")
    return _learn(model, tokenizer, settings, out)


def _learn(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: LanguagePretraining,
    out: Path,
) -> dict[str, float]:
    use_varlen_attention(model)
    both = optimizers(model, settings)
    schedules = lr_schedules(both, settings.steps)
    figures: dict[str, float] = {}
    steps = track(batches(tokenizer, settings), "language model", total=settings.steps)
    for step, batch in enumerate(steps, start=1):
        logits_sv = target_logits(model, batch)
        loss = functional.cross_entropy(logits_sv, batch.labels_s)
        torch.autograd.backward(loss)
        update(model, both, schedules)
        if step % settings.report_every == 0 or step == settings.steps:
            right = (logits_sv.argmax(-1) == batch.labels_s).float().mean()
            figures = {"step": step, "loss": loss.item(), "right": right.item()}
            report(figures)
            with write_atomically(out, Made(kind="nano-llama", of={"by": "pretrain"})) as aside:
                save_half(model, aside)
                tokenizer.save_pretrained(aside)
    return figures
