"""What every connector is, and first weights that fit the features and the word embeddings.

Encoders' features differ in mean and standard deviation from one dimension to the next, and the
tokens of a fresh connector are many times longer than word embeddings, which training takes long to
correct. `fit` corrects both in the weights themselves (a data-dependent initialization, as
Krähenbühl et al. 2016), so that the connector's architecture stays as other programs know it.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from laterna.recipe import ConnectorSettings

SMALLEST = 0.1
"""Least standard deviation that a dimension counts with, as a share of the median of all. One that
is constant on the images that are fitted (a convolution's dead channel) would otherwise be scaled
up a million times, and with it the rounding of 16 bits and the first image in which it varies."""


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

        Raises LaternaError when it cannot take images of `n` features.
        """
        raise NotImplementedError

    def initialize(self, settings: ConnectorSettings) -> None:
        """Take first weights from `settings.source`, in connectors that use it.

        Raises LaternaError when they are missing or of another shape.
        """

    def calibrate(self, features_bnd: Tensor, rms_length: float) -> None:
        """Fit fresh weights to features (b, n, d_vision), and to embeddings by the root mean square
        of their lengths.

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
    connector: nn.Module, first: nn.Linear, last: nn.Linear, features_bnd: Tensor, rms_length: float
) -> None:
    """Fit a connector, of which these are the first and the last linear layer (or the only one)."""
    _standardize(first, features_bnd)
    rescale(last, connector(features_bnd), rms_length)


def _standardize(first: nn.Linear, features_bnd: Tensor) -> None:
    """Change a linear layer so that its inputs count as if each had mean 0 and standard deviation 1
    over `features_bnd`; those that hardly vary count with a smaller deviation.
    """
    flat = features_bnd.flatten(0, -2).to(first.weight)
    deviation = flat.std(0)
    least = max(1e-6, SMALLEST * float(deviation.median()))
    first.weight.div_(deviation.clamp(min=least))
    first.bias.sub_(first.weight @ flat.mean(0))


@torch.no_grad()
def rescale(last: nn.Linear, tokens_bmd: Tensor, rms_length: float) -> None:
    """Scale the layer that wrote `tokens_bmd` to the root mean square length `rms_length`."""
    scale = rms_length / tokens_bmd.float().norm(dim=-1).square().mean().sqrt().clamp(min=1e-6)
    last.weight.mul_(scale)
    last.bias.mul_(scale)
