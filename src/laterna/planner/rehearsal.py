"""One training step on the meta device: its FLOPs by part, and its memory at the fullest moment.

The parts, torch's own backward pass and the loss are those of a real run; only the places where a
run looks at numbers (which token is a picture, which is a target) are told instead.

Shapes: b pictures · c channels · h, w pixels · m tokens a picture · d width · r rows ·
t tokens of a row · s target tokens.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from laterna.errors import LaternaError
from laterna.model.attention.varlen import LIST
from laterna.model.vlm import VisionLanguageModel
from laterna.planner.attention import ATTENTION_OPS, rehearse_attention
from laterna.planner.memory import LiveBytes, weights_and_buffers
from laterna.planner.pictures import Picture, filled_grids
from laterna.recipe import PartName
from laterna.records import Record
from laterna.training.objective import summed_loss

PARTS: tuple[PartName, ...] = ("vision", "connector", "language")
META = torch.device("meta")


class Load(Record):
    """What one micro-batch holds."""

    rows: int
    pictures: int
    """In each row; each takes as many tokens as the connector makes."""
    text: int
    """Tokens in each row that are no picture's, padding included."""
    targets: int
    """Tokens in each row that are learned."""
    records: int = 1
    """About each picture, standing in the row behind it."""
    segments: bool = False
    """Whether each record attends alone (`attention.varlen`), without mask; else records that share
    a picture take a mask of numbers, one for all layers."""

    def keys(self, picture_tokens: int) -> int:
        """Return how many keys the segments of a row have together: what is shared comes again
        with every record behind it.
        """
        shared = self.pictures * self.records * picture_tokens if self.records > 1 else 0
        return self.text + self.pictures * picture_tokens + shared

    def seen(self, picture_tokens: int) -> float:
        """Return the share of a row's pairs of tokens and keys that attention computes."""
        if not self.segments:
            return 1.0
        width = self.text + self.pictures * picture_tokens
        own = self.text / (self.pictures * self.records)
        both = picture_tokens + own
        family = picture_tokens**2 + self.records * own * both
        computed = self.pictures * (family if self.records > 1 else both**2)
        return computed / (width * self.keys(picture_tokens))


class Flops(Record):
    """Floating-point operations of a micro-batch; a multiplication with its addition is two.

    The work of the model alone: what checkpointing makes once more is not in it, nor AdamW's.
    """

    forward: dict[PartName, int]
    backward: dict[PartName, int]
    attention: int
    """Of all of these, the part that grows quadratically with the tokens."""

    @property
    def total(self) -> int:
        """Forward and backward, all parts."""
        return sum(self.forward.values()) + sum(self.backward.values())


class Bytes(Record):
    """Memory of a step at its fullest moment."""

    weights: int
    """All parts, frozen ones included, with their buffers."""
    gradients: int
    kept: dict[PartName, int]
    """What each part's forward pass keeps for the backward pass; the loss counts as language."""
    peak: int
    """Weights, gradients, activations and what operators need meanwhile; no optimiser."""

    @property
    def activations(self) -> int:
        """All but weights and gradients."""
        return self.peak - self.weights - self.gradients


class Rehearsal(nn.Module):
    """The three parts in a row, as `Assistant` and `Objective` run them in training.

    The stage must have been applied to the skeleton. Without `sees`, the vision tower is left
    out, as when its features come from a cache.
    """

    def __init__(
        self, skeleton: VisionLanguageModel, picture: Picture | None = None, *, sees: bool = True
    ) -> None:
        """`picture`: what each takes; unless told, as much as one on the largest grid."""
        super().__init__()
        self.vision = skeleton.vision
        self.connector = skeleton.connector
        self.language = skeleton.language
        self.decoder = skeleton.language.get_decoder()
        self.head = skeleton.language.get_output_embeddings()
        self.sees = sees
        self.side = skeleton.prepare.size
        self.picture = picture or filled_grids(skeleton)[-1]
        rehearse_attention(skeleton.language)
        if hasattr(skeleton.vision.model, "set_attn_implementation"):
            rehearse_attention(skeleton.vision.model)

    @contextmanager
    def showing(self, picture: Picture) -> Iterator[None]:
        """Let each picture take what this one does, meanwhile."""
        before, self.picture = self.picture, picture
        yield
        self.picture = before

    @property
    def picture_tokens(self) -> int:
        """Of each picture."""
        return self.picture.tokens

    @property
    def dtype(self) -> torch.dtype:
        """The numbers' format of weights and activations."""
        dtype: torch.dtype = self.head.weight.dtype
        return dtype

    def look(self, pictures: int) -> Tensor:
        """Return the features (b, n, d) of that many pictures' tiles."""
        tiles = round(pictures * self.picture.tiles)
        if self.sees:
            features: Tensor = self.vision(torch.empty(tiles, 3, self.side, self.side, device=META))
            return features
        shape = (tiles, self.vision.patches, self.vision.width)
        return torch.empty(shape, dtype=self.dtype, device=META)

    def read(self, tokens_bmd: Tensor, load: Load) -> Tensor:
        """Return the decoder's states (r, t, d) over the rows of a micro-batch."""
        width = load.text + load.pictures * self.picture_tokens
        shape = (load.rows, width)
        ids_rt = torch.empty(shape, dtype=torch.long, device=META)
        embedded: Tensor = self.language.get_input_embeddings()(ids_rt)
        joined_nd = self._join(tokens_bmd, load.rows * (width - load.text))
        pictures_rtd = joined_nd.reshape(load.rows, width - load.text, -1)
        text_rtd = embedded[:, width - load.text :]
        # One new tensor and the embedding's gradient, as `masked_scatter` has them.
        both_rtd = torch.cat([pictures_rtd.to(embedded.dtype), text_rtd], dim=1)
        states_rtd: Tensor = self.decode(both_rtd, load)
        return states_rtd

    def _join(self, tokens_bmd: Tensor, count: int) -> Tensor:
        """Join tiles to so many tokens (n, d): rows ended, borders cut, as `connectors.tiles`."""
        joined_nd = tokens_bmd.flatten(0, 1)
        ends = count - len(joined_nd)
        if ends <= 0:
            return joined_nd[:count]
        newline_d = self.connector.image_newline
        assert newline_d is not None, "the skeleton was built with one"
        return torch.cat([joined_nd, newline_d.expand(ends, -1)])

    def decode(self, embedded_rtd: Tensor, load: Load | None = None, *, cache: bool = False) -> Any:
        """Run the decoder with a mask that keeps samples apart, as rows of several lengths need.

        It says what is seen, and of shared pictures what is added to the scores.
        """
        rows, width, _ = embedded_rtd.shape
        output = self.decoder(
            inputs_embeds=embedded_rtd,
            position_ids=torch.empty(rows, width, dtype=torch.long, device=META),
            attention_mask=self._mask(rows, width, load),
            use_cache=cache,
        )
        return output.past_key_values if cache else output.last_hidden_state

    def _mask(self, rows: int, width: int, load: Load | None) -> Tensor:
        if load is not None and load.segments:
            return torch.empty(1, 1, load.keys(self.picture_tokens), 2, dtype=LIST, device=META)
        kind = self.dtype if load is not None and load.records > 1 else torch.bool
        return torch.empty(rows, 1, width, width, dtype=kind, device=META)

    def learn(self, states_rtd: Tensor, load: Load, *, whole: bool = False) -> Tensor:
        """Return the loss; `whole`: all logits at once, so that none are made again."""
        chosen = torch.empty(load.rows * load.targets, dtype=torch.long, device=META)
        labels_s = torch.empty_like(chosen)
        states_sd = states_rtd.flatten(0, 1)[chosen]
        if whole:
            logits_sv = self.head(states_sd)
            return functional.cross_entropy(logits_sv.float(), labels_s, reduction="sum")
        return summed_loss(states_sd, labels_s, self.head, int(self.head.weight.shape[0]))

    def forward(self, load: Load) -> Tensor:
        """Return the loss of a micro-batch, to count FLOPs by."""
        tokens_bmd = self.connector(self.look(load.rows * load.pictures))
        return self.learn(self.read(tokens_bmd, load), load, whole=True)


def count_flops(rehearsal: Rehearsal, load: Load) -> Flops:
    """Return the FLOPs of a micro-batch, forward and backward."""
    hidden = 1 - load.seen(rehearsal.picture_tokens)
    with _told_what_fails(), FlopCounterMode(display=False) as counter:
        loss = rehearsal(load)
        forward = _by_part(counter, hidden)
        loss.backward()
        both = _by_part(counter, hidden)
    rehearsal.zero_grad()
    return Flops(
        forward=forward,
        backward={part: both[part] - forward[part] for part in PARTS},
        attention=_attention(counter) - _hidden_attention(counter, hidden),
    )


def count_bytes(rehearsal: Rehearsal, load: Load, *, again: bool, checkpointed: bool) -> Bytes:
    """Return the memory of a micro-batch; `again`: of a second one, beside the first's gradients.

    `checkpointed`: of each layer only its input is kept, and the rest made again (language, and
    vision where it trains).
    """
    with _told_what_fails(), _checkpointing(rehearsal, checkpointed), LiveBytes() as live:
        live.add(weights_and_buffers([rehearsal]))
        weights = live.now
        marks: dict[PartName, int] = {}
        for _ in range(2 if again else 1):
            start = live.now
            features = rehearsal.look(load.rows * load.pictures)
            marks["vision"] = live.now - start
            tokens_bmd = rehearsal.connector(features)
            marks["connector"] = live.now - start - marks["vision"]
            loss = rehearsal.learn(rehearsal.read(tokens_bmd, load), load)
            del tokens_bmd, features
            marks["language"] = live.now - start - marks["vision"] - marks["connector"]
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        gradients = live.now - weights
        rehearsal.zero_grad()
    gc.collect()
    return Bytes(weights=weights, gradients=gradients, kept=marks, peak=live.peak)


def count_cache(rehearsal: Rehearsal, tokens: int) -> int:
    """Return the bytes of the KV cache that a row of so many tokens leaves."""
    with _told_what_fails(), torch.no_grad():
        cache = rehearsal.decode(_row(rehearsal, tokens), cache=True)
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.nbytes for tensor in kept)


def count_reading(rehearsal: Rehearsal, tokens: int) -> Flops:
    """Return the FLOPs of the language model's decoder over one row, forward alone."""
    with _told_what_fails(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        rehearsal.decode(_row(rehearsal, tokens))
    whole = counter.get_flop_counts()["Global"]
    return Flops(
        forward={"language": sum(whole.values())}, backward={}, attention=_attention(counter)
    )


def _row(rehearsal: Rehearsal, tokens: int) -> Tensor:
    width = rehearsal.language.get_input_embeddings().embedding_dim
    return torch.empty(1, tokens, width, dtype=rehearsal.dtype, device=META)


def _attention(counter: FlopCounterMode, part: str = "Global") -> int:
    counts = counter.get_flop_counts().get(part, {})
    return sum(counts.get(op, 0) for op in ATTENTION_OPS)


def _hidden_attention(counter: FlopCounterMode, share: float) -> int:
    """Return what was counted of the language model's attention that is not computed."""
    return round(share * (_attention(counter) - _attention(counter, "Rehearsal.vision")))


def _by_part(counter: FlopCounterMode, hidden: float) -> dict[PartName, int]:
    """Return each part's count; a share `hidden` of the language model's attention is left out."""
    counts = counter.get_flop_counts()
    whole, vision, connector = (
        sum(counts.get(name, {}).values())
        for name in ("Global", "Rehearsal.vision", "Rehearsal.connector")
    )
    # The counter does not see the backward pass leave a module called by keywords, as the decoder
    # is: what it says of the decoder holds the connector's as well.
    language = whole - vision - connector - _hidden_attention(counter, hidden)
    return {"vision": vision, "connector": connector, "language": language}


@contextmanager
def _checkpointing(rehearsal: Rehearsal, wanted: bool) -> Iterator[None]:
    """Checkpoint the layers of the parts that gradients pass through, and undo it."""
    models = [rehearsal.language]
    if any(weight.requires_grad for weight in rehearsal.vision.parameters()):
        models.append(rehearsal.vision.model)
    models = [model for model in models if wanted and model.supports_gradient_checkpointing]
    trained = [model.training for model in models]
    with warnings.catch_warnings():
        # Its name is about to change; the ranges that we support have this one in common.
        warnings.simplefilter("ignore", FutureWarning)
        for model in models:
            model.train()  # layers checkpoint in training mode alone
            model.gradient_checkpointing_enable()
        yield
        for model, mode in zip(models, trained, strict=True):
            model.gradient_checkpointing_disable()
            model.train(mode)


@contextmanager
def _told_what_fails() -> Iterator[None]:
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LaternaError(
            f"this recipe cannot be planned: one of its models decides by numbers what to compute, "
            f"which a rehearsal without numbers cannot follow: {reason}"
        ) from error
