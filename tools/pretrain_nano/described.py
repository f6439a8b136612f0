"""Documents become batches: a description stands in an image's slot, and is shared like one.

All records of a document go on behind its description, which is computed once
(`data.packing`, `shared_prefix`): sixteen questions cost little more than one.

Shapes: d width · s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from msgspec import structs
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from laterna.data.batches import collate
from laterna.data.masking import tokenize
from laterna.data.packing import plan_packs
from laterna.model.attention.shared_prefix import before_targets, shared_prefix_mask
from laterna.records import Batch, Record, Sample
from pretrain_nano.corpus import Document

Words = tuple[int, ...]
"""The ids whose embeddings are summed into one token: one of text, several of a map's square."""


class Described(Record, frozen=True):
    """A document's records as samples, and the tokens of the description in their slots."""

    samples: tuple[Sample, ...]
    description: tuple[Words, ...]

    @property
    def length(self) -> int:
        """Tokens, with the description once for all records that can share it."""
        packs = plan_packs(self.samples, pack_length=0, shared_prefix=True)
        return sum(pack.length for pack in packs)


class TextBatch(Record, frozen=True):
    """A batch whose images are descriptions."""

    batch: Batch
    words: Tensor
    """The ids of all tokens of its descriptions, one after another."""
    offsets: Tensor
    """Where each token's ids begin in `words`."""

    @property
    def labels_s(self) -> Tensor:
        """The target tokens' ids, in reading order."""
        return self.batch.input_ids_rt[:, 1:][self.batch.loss_mask_rt[:, 1:]]


def describe_samples(document: Document, tokenizer: PreTrainedTokenizerFast) -> Described:
    """Tokenize a document's records, its description in the place of their image."""
    description = _description(document, tokenizer)
    samples = (tokenize(record, tokenizer, document.template) for record in document.records)
    counted = (structs.replace(one, image_tokens=(len(description),)) for one in samples)
    return Described(samples=tuple(counted), description=description)


def _description(document: Document, tokenizer: PreTrainedTokenizerFast) -> tuple[Words, ...]:
    words = document.description.words
    if not words:
        return ()
    encoded = [tuple(ids) for ids in tokenizer(list(words), add_special_tokens=False)["input_ids"]]
    return tuple(encoded) if document.description.is_map else tuple((one,) for one in encoded[0])


def collate_described(documents: Sequence[Described], pack_length: int) -> TextBatch:
    """Put documents into rows of about `pack_length` tokens; 0: a row for each that can be shared.

    Documents must differ in the name that their records give the description.
    """
    samples = [sample for one in documents for sample in one.samples]
    batch = collate(plan_packs(samples, pack_length=pack_length, shared_prefix=True))
    by_name = {one.samples[0].images[0]: one.description for one in documents if one.samples}
    tokens = [words for name in batch.images for words in by_name[name]]
    lengths = torch.tensor([0] + [len(words) for words in tokens[:-1]])
    return TextBatch(
        batch=batch,
        words=torch.tensor([token for words in tokens for token in words], dtype=torch.long),
        offsets=lengths.cumsum(0)[: len(tokens)],
    )


def target_logits(model: LlamaForCausalLM, text: TextBatch) -> Tensor:
    """Return the logits (s, v) of a batch's target tokens, in reading order."""
    batch = text.batch
    table = model.get_input_embeddings()
    described_d = functional.embedding_bag(text.words, table.weight, text.offsets, mode="sum")
    mask = batch.image_mask_rt.unsqueeze(-1)
    hidden_rtd = model.model(
        inputs_embeds=table(batch.input_ids_rt).masked_scatter(mask, described_d),
        position_ids=batch.position_ids_rt,
        attention_mask=shared_prefix_mask(batch.sharing, batch.position_ids_rt, model),
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden_rtd.flatten(0, 1).index_select(0, before_targets(batch)))
    return logits
