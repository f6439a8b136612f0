"""Answers of models that cannot be driven step by step.

Shapes: r rows · v vocabulary.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from laterna.inference.batching.steps import Steps
from laterna.inference.generation import generate_rows
from laterna.inference.sampling import choose


class ByGenerate(Steps):
    """Answers by the model's own `generate`: one request after another, or, by an encoder-decoder,
    as many at once as rows may be, and then the next: padding changes nothing in an encoder.
    """

    @torch.no_grad()
    def step(self) -> None:
        """Answer those that have waited longest, all together."""
        self._dismiss()
        model = self.model
        together = self.settings.rows if model.fusion.encodes else 1
        with self.lock:
            requests = list(islice(self.waiting, together))
        if not requests:
            return
        for request in requests:
            self._admitted(request, 0)
        shown = [image for request in requests for image in request.images]
        self.images.encode(shown, self.settings.image_batch)
        seen = [image.tokens_md for image in shown if image.tokens_md is not None]
        prompts = [request.prompt for request in requests]
        inputs = model.fusion.generation_inputs(model.language, prompts, seen)
        end = model.end_of_turn()[0]

        def chosen(logits_rv: Tensor) -> list[int]:
            ids = [end] * len(requests)
            going = [row for row, one in enumerate(requests) if one.finish is None]
            samplers = [requests[row].sampler for row in going]
            for row, token in zip(going, choose(logits_rv[going], samplers), strict=True):
                requests[row].take(token)
                ids[row] = token.id
            return ids

        def ended() -> bool:
            self._dismiss()
            for request in requests:
                why = request.overdue()
                if why and request.finish is None:
                    request.end(why)
            return all(request.finish is not None for request in requests)

        longest = max(request.decoding.max_new_tokens for request in requests)
        generate_rows(model, inputs, longest, chosen, ended)
        self.rows.clear()
        for request in requests:
            if request.finish is None:  # the model's own settings ended it
                request.end("stop")
            self._count(request, request.finish)
