"""PaLI's fusion: image tokens and text go through an encoder, and a decoder writes the answer.

Every answer is a case of its own: the encoder reads all of its sample that stands before it, former
answers included, and the decoder writes it alone. A row is taken apart for that, so samples that
are packed in one row never meet, and a row costs what its samples cost.

Shapes: r rows · t tokens of a row · k answers · q tokens of an answer · d width ·
s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from laterna.errors import LaternaError
from laterna.model.fusion.prefix import PrefixFusion
from laterna.records import Batch

IGNORED = -100
"""transformers' label of what is no target."""


class Span(NamedTuple):
    """Where one answer stands in a batch, and where its sample begins."""

    row: int
    sample: int
    begin: int
    end: int


class EncoderDecoderFusion(PrefixFusion):
    """Puts every image's tokens into the embedded text that the encoder reads.

    It has no weights of its own.
    """

    encodes = True
    compiles = False

    def hidden_states(self, language: Any, batch: Batch, images: Sequence[Tensor]) -> Tensor:
        """Raise LaternaError: there is no decoder's state for what the encoder reads."""
        del language, batch, images
        raise LaternaError(_NO_ROW)

    def logits_at(
        self, language: Any, batch: Batch, images: Sequence[Tensor], places_rt: Tensor
    ) -> Tensor:
        """Raise LaternaError: the encoder's text has no logits."""
        del language, batch, images, places_rt
        raise LaternaError(_NO_ROW)

    def target_logits(
        self, language: Any, batch: Batch, images: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (s, v) at the answers' tokens, and those tokens' ids (s).

        Raises LaternaError for an answer that nothing stands before, and for shared images.
        """
        if batch.sharing is not None:
            raise LaternaError(
                "shared_prefix: an encoder-decoder reads every sample alone; set it to false"
            )
        embeds_rtd = self.embed(language, batch, images)
        device = embeds_rtd.device
        spans = list(answers_of(batch))
        read = [embeds_rtd[one.row, one.sample : one.begin] for one in spans]
        present = [torch.ones(len(one), dtype=torch.long, device=device) for one in read]
        written = [batch.input_ids_rt[one.row, one.begin : one.end] for one in spans]
        labels_kq = pad_sequence(written, batch_first=True, padding_value=IGNORED).to(device)
        logits_kqv: Tensor = language(
            inputs_embeds=pad_sequence(read, batch_first=True),
            attention_mask=pad_sequence(present, batch_first=True),
            decoder_input_ids=language.prepare_decoder_input_ids_from_labels(labels=labels_kq),
            use_cache=False,
        ).logits
        targets_kq = labels_kq != IGNORED
        return logits_kqv[targets_kq], labels_kq[targets_kq]

    def rehearse(
        self,
        language: Any,
        images_rmd: Tensor,
        text: int,
        *,
        images: int = 1,
        mask: Tensor | None = None,
        cache: bool = False,
    ) -> Any:
        """Raise LaternaError: what a row costs here is not known from its width alone."""
        del language, images_rmd, text, images, mask, cache
        raise LaternaError(
            "fusion.kind = 'encoder_decoder': cost and memory are not planned for it yet, since "
            "they hang on how a row is shared between encoder and decoder; train without a plan"
        )


_NO_ROW = (
    "an encoder-decoder writes answers alone: states and logits of the text before them do not "
    "exist; ask for the answer"
)


def answers_of(batch: Batch) -> Iterator[Span]:
    """Yield where each answer of a batch stands, in reading order: a run of target tokens.

    Raises LaternaError for one that nothing stands before in its sample: the encoder would read
    nothing.
    """
    for row, (targets, positions) in enumerate(
        zip(batch.loss_mask_rt.tolist(), batch.position_ids_rt.tolist(), strict=True)
    ):
        sample = 0
        begin: int | None = None
        for place, (target, position) in enumerate(zip(targets, positions, strict=True)):
            if begin is not None and (not target or position == 0):
                yield Span(row, sample, begin, place)
                begin = None
            if position == 0:
                sample = place
            if target and begin is None:
                if place == sample:
                    raise LaternaError(
                        f"{', '.join(batch.ids)}: an answer has no image and no text before it, "
                        "so the encoder has nothing to read; give its record a question"
                    )
                begin = place
        if begin is not None:
            yield Span(row, sample, begin, len(targets))
