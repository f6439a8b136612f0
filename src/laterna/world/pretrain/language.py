"""Pretrains the nano language model on text alone: descriptions and talk about them.

It learns to answer from a description that stands where a picture will stand later, so that the
two stages on pictures only have to make it see. Only what follows a description is learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from laterna.data.batches import collate
from laterna.data.masking import tokenise
from laterna.data.packing import plan_packs
from laterna.files import write_atomically
from laterna.records import Batch, Sample
from laterna.world.pretrain.corpus import write_document
from laterna.world.pretrain.saving import save_half
from laterna.world.pretrain.settings import LanguagePretraining, max_toys, report
from laterna.world.pretrain.tokenizer import train_tokenizer

_TOKENIZER_TEXTS = 6000


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
    documents = (write_document(settings.seed, index)[0] for index in range(_TOKENIZER_TEXTS))
    texts = ("USER: ".join(turn.text for turn in doc.turns) + " ASSISTANT:" for doc in documents)
    return train_tokenizer(texts, settings.vocabulary)


class Documents(IterableDataset[list[Sample]]):
    """Yields the samples of one optimiser step after another, written when asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: LanguagePretraining) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.count = settings.steps * settings.batch

    def __iter__(self) -> Iterator[list[Sample]]:
        samples = map(self._sample, range(self.count))
        while step := list(islice(samples, self.settings.batch)):
            yield step

    def _sample(self, index: int) -> Sample:
        most = max_toys(self.settings.curriculum, index, self.count)
        record, is_chat = write_document(self.settings.seed, index, most)
        if is_chat:
            return tokenise(record, self.tokenizer)
        description, caption = (turn.text for turn in record.turns)
        return _plain_sample(self.tokenizer, str(index), description, caption)


def _plain_sample(
    tokenizer: PreTrainedTokenizerFast, name: str, description: str, caption: str
) -> Sample:
    """Return description and caption as `plain` has picture and caption; the caption is learned."""
    begin = tokenizer.bos_token + description
    head = tokenizer(begin, add_special_tokens=False)["input_ids"]
    tail = tokenizer(caption + "\n", add_special_tokens=False)["input_ids"]
    targets = (False,) * len(head) + (True,) * len(tail)
    return Sample(id=name, input_ids=(*head, *tail), targets=targets, picture_slots=())


def batches(tokenizer: PreTrainedTokenizerFast, settings: LanguagePretraining) -> Iterator[Batch]:
    """Yield packed batches, prepared ahead by one worker process."""
    loader = DataLoader(
        Documents(tokenizer, settings),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        collate_fn=partial(_pack, row_tokens=settings.row_tokens),
    )
    yield from loader


def _pack(samples: list[Sample], row_tokens: int) -> Batch:
    return collate(plan_packs(samples, row_tokens=row_tokens))


def text_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Return the mean loss of the batch's target tokens."""
    hidden_rtd = model.model(
        input_ids=batch.input_ids_rt, position_ids=batch.position_ids_rt, use_cache=False
    ).last_hidden_state
    wanted = batch.targets_rt[:, 1:]
    logits_sv = model.lm_head(hidden_rtd[:, :-1][wanted])
    return functional.cross_entropy(logits_sv, batch.input_ids_rt[:, 1:][wanted])


def pretrain_language(settings: LanguagePretraining, out: Path) -> dict[str, float]:
    """Train tokenizer and language model, write both to `out`; return the last figures."""
    torch.manual_seed(settings.seed)
    tokenizer = make_tokenizer(settings)
    model = LlamaForCausalLM(language_config(tokenizer))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=settings.steps, pct_start=0.05
    )
    figures: dict[str, float] = {}
    steps = track(batches(tokenizer, settings), "language model", total=settings.steps)
    for step, batch in enumerate(steps, start=1):
        loss = text_loss(model, batch)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % settings.report_every == 0 or step == settings.steps:
            figures = {"step": step, "loss": loss.item()}
            report(figures)
            with write_atomically(out) as aside:
                save_half(model, aside)
                tokenizer.save_pretrained(aside)
    return figures
