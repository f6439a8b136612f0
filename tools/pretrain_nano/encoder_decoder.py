"""Makes the nano encoder-decoder, a T5, out of the nano language model, and teaches it to read.

Every weight of the language model finds a place: its layers become the encoder's, and some of them
the decoder's, whose attention to the encoder begins as their attention to the text (the adaptation
of T5Gemma, Zhang et al. 2025). What T5 has otherwise, it must learn: positions are a bias and no
rotation, and the encoder sees ahead. It learns from the same documents on the same tokenizer: the
encoder reads a description with a question, and the decoder writes the answer.

Shapes: d width · s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from laterna.data.batches import collate
from laterna.data.packing import fit_batches
from laterna.files import Made, write_atomically
from laterna.model.build import fast_dtype
from laterna.model.fusion.encoder_decoder import EncoderDecoderFusion
from laterna.model.language.causal import auto_class
from laterna.model.pretrained import load_weights, read_part
from laterna.recipe import FusionSettings
from laterna.records import Pack, Sample
from pretrain_nano.described import Described, TextBatch
from pretrain_nano.language import Documents, lr_schedules, muon_and_adamw, update
from pretrain_nano.saving import save_half
from pretrain_nano.settings import EncoderDecoderPretraining, report

BUCKETS = 256
"""Of distances. T5's 32 tell distances up to 7 apart, and in an image of 8 by 8 patches the next
one below is 8 away; of 256 each distance up to 63, the farthest in such an image, has its own."""


BIAS_LR = 0.05
"""Peak learning rate of the biases by distance. They begin at 0, are all that tells where a token
stands, and are of use at 1 and more, which the rate of the other weights takes 1,000 steps to."""


def t5_config(language: LlamaForCausalLM, decoder_layers: Sequence[int]) -> T5Config:
    """Return the configuration of a T5 that a Llama's weights fit into."""
    config = language.config
    return T5Config(
        vocab_size=config.vocab_size,
        d_model=config.hidden_size,
        d_kv=config.head_dim,
        d_ff=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_decoder_layers=len(decoder_layers),
        num_heads=config.num_attention_heads,
        dropout_rate=0.0,
        layer_norm_epsilon=config.rms_norm_eps,
        relative_attention_num_buckets=BUCKETS,
        relative_attention_max_distance=BUCKETS,
        feed_forward_proj="gated-silu",
        tie_word_embeddings=True,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.pad_token_id,
    )


@torch.no_grad()
def from_llama(
    language: LlamaForCausalLM, decoder_layers: Sequence[int]
) -> T5ForConditionalGeneration:
    """Return a T5 whose encoder has all layers of a Llama, its decoder those of some numbers."""
    model = T5ForConditionalGeneration(t5_config(language, decoder_layers))
    model.shared.weight.copy_(language.get_input_embeddings().weight)
    layers = list(language.model.layers)
    for block, layer in zip(model.encoder.block, layers, strict=True):
        _fill(block, layer)
    for block, number in zip(model.decoder.block, decoder_layers, strict=True):
        _fill(block, layers[number])
    for stack in (model.encoder, model.decoder):
        stack.final_layer_norm.weight.copy_(language.model.norm.weight)
        first = stack.block[0].layer[0].SelfAttention
        nn.init.zeros_(first.relative_attention_bias.weight)
    # With a tied embedding T5 divides the last states by the root of their width.
    model.decoder.final_layer_norm.weight.mul_(model.config.d_model**0.5)
    return model


def _fill(block: Any, layer: Any) -> None:
    """Copy a Llama layer into a T5 block: its attention into every attention of the block."""
    *looks, last = block.layer
    for look in looks:
        attention = getattr(look, "SelfAttention", None) or look.EncDecAttention
        # T5 does not divide by the root of a head's width; both take a share of that, for one
        # alone would be so small that each step would change it much.
        share = layer.self_attn.scaling**0.5
        attention.q.weight.copy_(layer.self_attn.q_proj.weight * share)
        attention.k.weight.copy_(layer.self_attn.k_proj.weight * share)
        attention.v.weight.copy_(layer.self_attn.v_proj.weight)
        attention.o.weight.copy_(layer.self_attn.o_proj.weight)
        look.layer_norm.weight.copy_(layer.input_layernorm.weight)
    inner = last.DenseReluDense
    inner.wi_0.weight.copy_(layer.mlp.gate_proj.weight)
    inner.wi_1.weight.copy_(layer.mlp.up_proj.weight)
    inner.wo.weight.copy_(layer.mlp.down_proj.weight)
    last.layer_norm.weight.copy_(layer.post_attention_layernorm.weight)


def readings(documents: Sequence[Described], most: int) -> list[tuple[Described, Sample]]:
    """Return each record of some documents with one answer that is learned, the others of its turns
    being read: `most` answers at most, in equal shares of the documents.
    """
    found: list[list[tuple[Described, Sample]]] = []
    for one in documents:
        own = (structs.replace(sample, targets=_only(sample.targets, begin, end))
               for sample in one.samples for begin, end in _answers(sample.targets))  # fmt: skip
        found.append([(one, sample) for sample in own])
    in_turns = (pair for turn in zip_longest(*found) for pair in turn if pair is not None)
    return list(islice(in_turns, most))


def _answers(targets: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield where each run of target tokens begins and ends."""
    place = 0
    for target, run in groupby(targets):
        begin, place = place, place + len(list(run))
        if target:
            yield begin, place


def _only(targets: Sequence[bool], begin: int, end: int) -> tuple[bool, ...]:
    return tuple(target and begin <= place < end for place, target in enumerate(targets))


def collate_readings(pairs: Sequence[tuple[Described, Sample]]) -> TextBatch:
    """Put readings into rows, one in each, a description in the place of an image."""
    batch = collate([Pack(samples=(sample,)) for _, sample in pairs])
    words = [words for one, _ in pairs for words in one.description]
    lengths = torch.tensor([0] + [len(one) for one in words[:-1]])
    return TextBatch(
        batch=batch,
        words=torch.tensor([token for one in words for token in one], dtype=torch.long),
        offsets=lengths.cumsum(0)[: len(words)],
    )


def target_logits(model: T5ForConditionalGeneration, text: TextBatch) -> tuple[Tensor, Tensor]:
    """Return the logits (s, v) of the answers' tokens and their ids (s), by Laterna's own fusion:
    the encoder reads the description's tokens in the places of an image's.
    """
    table = model.get_input_embeddings().weight
    described_d = functional.embedding_bag(text.words, table, text.offsets, mode="sum")
    fusion = EncoderDecoderFusion(FusionSettings(kind="encoder_decoder"), 0, model)
    images = torch.split(described_d, list(text.batch.image_tokens))
    return fusion.target_logits(model, text.batch, images)


def pretrain_encoder_decoder(
    begun: Path, settings: EncoderDecoderPretraining, out: Path
) -> dict[str, float]:
    """Make a T5 of the language model of folder `begun`, or take the T5 that is there, train it and
    write it with the tokenizer to `out`; return the last figures.

    Raises LaternaError when the folder holds no such model with its tokenizer.
    """
    torch.manual_seed(settings.seed)
    tokenizer = read_part(
        lambda: PreTrainedTokenizerFast.from_pretrained(begun), source=str(begun), what="tokenizer"
    )
    model = load_weights(auto_class(str(begun)), str(begun), what="language model")
    if isinstance(model, LlamaForCausalLM):
        model = from_llama(model, settings.decoder_layers)
    both = muon_and_adamw(model, _matrices(model), settings.lr)
    biases = [one for name, one in model.named_parameters() if "relative_attention_bias" in name]
    both = (*both, torch.optim.AdamW(biases, lr=BIAS_LR, betas=(0.9, 0.95), weight_decay=0.0))
    schedules = lr_schedules(both, settings.steps)
    figures: dict[str, float] = {}
    steps = track(_batches(tokenizer, settings), "encoder-decoder", total=settings.steps)
    half = fast_dtype(model.device) is torch.bfloat16
    for step, batches in enumerate(steps, start=1):
        targets = sum(int(one.batch.loss_mask_rt.sum()) for one in batches)
        loss = right = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits_sv, labels_s = target_logits(model, batch)
            share = functional.cross_entropy(logits_sv.float(), labels_s, reduction="sum") / targets
            torch.autograd.backward(share)
            loss += share.item()
            right += float((logits_sv.argmax(-1) == labels_s).sum()) / targets
        update(model, both, schedules)
        if step % settings.report_every == 0 or step == settings.steps:
            figures = {"step": step, "loss": loss, "right": right}
            report(figures)
            with write_atomically(out, Made(kind="nano-t5", of={"by": "pretrain"})) as aside:
                save_half(model, aside)
                tokenizer.save_pretrained(aside)
    return figures


def _batches(
    tokenizer: PreTrainedTokenizerFast, settings: EncoderDecoderPretraining
) -> Iterator[list[TextBatch]]:
    """Yield the micro-batches of one step after another, their documents written ahead by one
    worker process.
    """
    loader = DataLoader(
        Documents(tokenizer, settings.documents),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        collate_fn=list,
    )
    for documents in loader:
        pairs = readings(documents, settings.answers)
        rows = fit_batches([sample.length for _, sample in pairs], settings.micro_batch_tokens)
        yield [collate_readings([pairs[place] for place in places]) for places in rows]


def _matrices(model: T5ForConditionalGeneration) -> list[nn.Parameter]:
    """Return the layers' matrices, without the tables of embeddings and biases among them."""
    layers = [*model.encoder.block.parameters(), *model.decoder.block.parameters()]
    table = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    return [one for one in layers if one.ndim == 2 and id(one) not in table]
