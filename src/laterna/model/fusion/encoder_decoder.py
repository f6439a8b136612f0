"""PaLI's fusion: image tokens and text go through an encoder, and a decoder writes the answer.

Every answer is a case of its own: the encoder reads all of its sample that stands before it, former
answers included, and the decoder writes it alone. A row is taken apart for that, so samples that
are packed in one row never meet, and a row costs what its samples cost. What is read for several
answers, as an image for its captions, is read once.

Shapes: r rows · t tokens of a row · n readings · k answers · q tokens of an answer · d width ·
s target tokens · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutput

from laterna.errors import LaternaError
from laterna.model.attention.shared_prefix import attention_window
from laterna.model.fusion.base import device_of
from laterna.model.fusion.prefix import PrefixFusion
from laterna.records import Batch

IGNORED = -100
"""transformers' label of what is no target."""


class Span(NamedTuple):
    """An answer of a batch, from `begin` to `end` of a row, and the places of that row that are
    read for it.
    """

    row: int
    read: tuple[int, ...]
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

        Raises LaternaError for an answer that nothing stands before.
        """
        embeds_rtd = self.embed(language, batch, images)
        device = embeds_rtd.device
        spans = list(answers_of(batch)) or [Span(0, (0,), 0, 0)]  # all weights take part
        numbers: dict[tuple[int, tuple[int, ...]], int] = {}
        which = [numbers.setdefault((one.row, one.read), len(numbers)) for one in spans]
        read = [embeds_rtd[row, list(places)] for row, places in numbers]
        states_ntd, present_nt = _encoded(language, read)
        which_k = torch.tensor(which, device=device)
        written = [batch.input_ids_rt[one.row, one.begin : one.end] for one in spans]
        labels_kq = pad_sequence(written, batch_first=True, padding_value=IGNORED).to(device)
        if not labels_kq.shape[1]:
            labels_kq = functional.pad(labels_kq, (0, 1), value=IGNORED)
        logits_kqv: Tensor = language(
            encoder_outputs=BaseModelOutput(states_ntd[which_k]),
            attention_mask=present_nt[which_k],
            decoder_input_ids=language.prepare_decoder_input_ids_from_labels(labels=labels_kq),
            use_cache=False,
        ).logits
        targets_kq = labels_kq != IGNORED
        return logits_kqv[targets_kq], labels_kq[targets_kq]

    @torch.no_grad()
    def generation_inputs(
        self, language: Any, prompts: Sequence[Sequence[int]], images: Sequence[Tensor]
    ) -> dict[str, Any]:
        """Return what `generate` takes: prompts that the encoder has read, each as it is alone.

        Raises LaternaError when marks and images differ in number.
        """
        inputs = super().generation_inputs(language, prompts, images)
        rows = zip(inputs["inputs_embeds"], inputs["attention_mask"].bool(), strict=True)
        states_ntd, present_nt = _encoded(language, [embeds[mask] for embeds, mask in rows])
        return {"encoder_outputs": BaseModelOutput(states_ntd), "attention_mask": present_nt}

    def answer_logits(
        self,
        language: Any,
        prompt: Sequence[int],
        answer: Sequence[int],
        images: Sequence[Sequence[Tensor]],
    ) -> Tensor:
        """Return the logits (b, n, v) of an answer that the decoder writes, as `Fusion` has it."""
        flat = [one for row in images for one in row]
        read = self.generation_inputs(language, [prompt] * len(images), flat)
        labels_bn = torch.tensor([list(answer)] * len(images), device=device_of(language))
        logits_bnv: Tensor = language(
            **read,
            decoder_input_ids=language.prepare_decoder_input_ids_from_labels(labels=labels_bn),
            use_cache=False,
        ).logits
        return logits_bnv

    def rehearse(
        self,
        language: Any,
        images_rmd: Tensor,
        text: int,
        *,
        images: int = 1,
        mask: Tensor | None = None,
        cache: bool = False,
        written: int = 0,
    ) -> Any:
        """Run encoder and decoder over rows of one reading each, by shapes alone; the states (r, q,
        d) are the decoder's, and the cache what it keeps of the reading.
        """
        del images  # their tokens stand side by side
        rows, given = images_rmd.shape[:2]
        device, width, answer = images_rmd.device, given + text - written, max(written, 1)
        ids_rt = torch.zeros(rows, width, dtype=torch.long, device=device)
        embeds_rtd = language.get_input_embeddings()(ids_rt)
        embeds_rtd = torch.cat([images_rmd.to(embeds_rtd.dtype), embeds_rtd[:, given:]], dim=1)

        def seen(asking: int) -> Tensor | None:
            shape = (rows, 1, asking, width)  # rows of other lengths are padded
            return None if mask is None else torch.empty(shape, dtype=torch.bool, device=device)

        states_rtd = language.get_encoder()(
            inputs_embeds=embeds_rtd, attention_mask=seen(width)
        ).last_hidden_state
        output = language.get_decoder()(
            input_ids=ids_rt.new_zeros(rows, answer),
            encoder_hidden_states=states_rtd,
            encoder_attention_mask=seen(answer),
            use_cache=cache,
        )
        if cache:
            return output.past_key_values.cross_attention_cache
        return output.last_hidden_state


def _encoded(language: Any, read: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the encoder's states (n, t, d) of readings (t, d), and which are none of the padding.

    Where layers look but so far around (T5Gemma), padding wider than that would see nothing, of
    which torch makes NaN: then each is read alone.
    """
    encoder = language.get_encoder()
    present = [torch.ones(len(one), dtype=torch.long, device=one.device) for one in read]
    present_nt = pad_sequence(present, batch_first=True)
    lengths = [len(one) for one in read]
    if max(lengths) - min(lengths) < (attention_window(encoder.config) or max(lengths)):
        embeds_ntd = pad_sequence(list(read), batch_first=True)
        output = encoder(inputs_embeds=embeds_ntd, attention_mask=present_nt)
        return output.last_hidden_state, present_nt
    alone = [encoder(inputs_embeds=one[None]).last_hidden_state[0] for one in read]
    return pad_sequence(alone, batch_first=True), present_nt


_NO_ROW = (
    "an encoder-decoder writes answers alone: states and logits of the text before them do not "
    "exist; ask for the answer"
)


def answers_of(batch: Batch) -> Iterator[Span]:
    """Yield the answers of a batch in reading order: the runs of target tokens.

    What a sample shares with others, which stands in their row once, is read for each of them.
    Raises LaternaError for one that nothing stands before in its sample: the encoder would read
    nothing.
    """
    sees_rt = None if batch.sharing is None else batch.sharing.attends_to_rt.tolist()
    for row, (targets, blocks) in enumerate(
        zip(batch.loss_mask_rt.tolist(), _blocks(batch), strict=True)
    ):
        pairs = enumerate(zip(targets, blocks, strict=True))
        for (target, block), run in groupby(pairs, itemgetter(1)):
            if not target:
                continue
            begin, *others = (place for place, _ in run)
            end = begin + 1 + len(others)
            seen = {block} if sees_rt is None else {block, sees_rt[row][begin]}
            read = tuple(place for place in range(begin) if blocks[place] in seen)
            if not read:
                raise LaternaError(
                    f"{', '.join(batch.ids)}: an answer has no image and no text before it, so the "
                    "encoder has nothing to read; give its record a question"
                )
            yield Span(row, read, begin, end)


def _blocks(batch: Batch) -> list[list[int]]:
    """Return the block of each token of each row: its sample, or the part of it that is shared."""
    if batch.sharing is not None:
        return batch.sharing.segment_ids_rt.tolist()
    return (batch.position_ids_rt == 0).cumsum(dim=1).tolist()
