"""First weights that fit what a connector joins: the features' spread, the embeddings' length.

Encoders' features differ in mean and spread from one dimension to the next, and a fresh connector
hands the language model tokens many times longer than its words, which it takes long to get used
to. Both are mended in the weights themselves (a data-dependent initialisation, as Krähenbühl et
al. 2016), so that the connector stays the one that other programs know.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST = 0.1
"""Least spread that a dimension is taken to have, as a share of the median of all. One that is
still on the pictures that are fitted (a convolution's dead channel) would else be blown up a
million times, and with it the rounding of 16 bits and the first picture that moves it."""


@torch.no_grad()
def fit(
    connector: nn.Module, first: nn.Linear, last: nn.Linear, features_bnd: Tensor, length: float
) -> None:
    """Fit a connector whose first and last linear layers these are (one may be both)."""
    standardise(first, features_bnd)
    rescale(last, connector(features_bnd), length)


@torch.no_grad()
def standardise(first: nn.Linear, features_bnd: Tensor) -> None:
    """Let a linear layer see its inputs as if each had mean 0 and spread 1 over `features_bnd`.

    Those that hardly vary keep a smaller spread.
    """
    flat = features_bnd.flatten(0, -2).to(first.weight)
    spread = flat.std(0)
    least = max(1e-6, SMALLEST * float(spread.median()))
    first.weight.div_(spread.clamp(min=least))
    first.bias.sub_(first.weight @ flat.mean(0))


@torch.no_grad()
def rescale(last: nn.Linear, tokens_bmd: Tensor, length: float) -> None:
    """Scale the layer that wrote `tokens_bmd` so that their root mean square length is `length`."""
    scale = length / tokens_bmd.float().norm(dim=-1).square().mean().sqrt().clamp(min=1e-6)
    last.weight.mul_(scale)
    last.bias.mul_(scale)
