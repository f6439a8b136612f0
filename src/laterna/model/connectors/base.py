"""What every connector is, and first weights that fit what it joins.

Encoders' features differ in mean and spread from one dimension to the next, and a fresh connector
hands the language model tokens many times longer than its words, which it takes long to get used
to. `fit` mends both in the weights themselves (a data-dependent initialisation, as Krähenbühl et
al. 2016), so that the connector stays the one that other programs know.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from laterna.recipe import ConnectorSettings

SMALLEST = 0.1
"""Least spread that a dimension is taken to have, as a share of the median of all. One that is
still on the images that are fitted (a convolution's dead channel) would else be blown up a
million times, and with it the rounding of 16 bits and the first image that moves it."""


class Connector(nn.Module):
    """Maps vision features (b, n, d_vision) to language embeddings (b, m, d_language).

    A connector is built from `(settings, d_vision, d_language)` and draws its first weights from
    torch's generator, which the caller seeds.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    """The settings, besides `kind`, that mean something to it; others are refused."""
    is_map: ClassVar[bool] = False
    """Whether the tokens of an image are a square map of it in reading order, which is what
    AnyRes joins."""
    image_newline: nn.Parameter | None
    """AnyRes: the vector (d_language) that ends each row of a tiled image; learned with the
    connector, and one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("image_newline", None)

    def add_newline(self, d_language: int) -> None:
        """Add a newline, drawn from torch's generator as wide as LLaVA-NeXT's."""
        self.image_newline = nn.Parameter(torch.randn(d_language) / d_language**0.5)

    def tokens(self, n: int) -> int:
        """Return how many tokens (m) an image of `n` features becomes, before running.

        Raises LaternaError when images of `n` features are none that it can take.
        """
        raise NotImplementedError

    def initialise(self, settings: ConnectorSettings) -> None:
        """Take first weights from `settings.source`, in connectors that use it.

        Raises LaternaError when they are missing or of another shape.
        """

    def calibrate(self, features_bnd: Tensor, length: float) -> None:
        """Fit fresh weights to features (b, n, d_vision) and to embeddings of a mean length.

        Only connectors that use the setting `calibrate` can.
        """
        raise NotImplementedError


class ConnectorKind(Protocol):
    """A connector's class: what it uses, and how one is made."""

    uses: frozenset[str]

    def __call__(self, settings: ConnectorSettings, d_vision: int, d_language: int, /) -> Connector:
        """Build one, its weights drawn from torch's generator."""
        ...


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
