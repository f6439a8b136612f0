"""Connectors: from vision features (b, n, d_vision) to language embeddings (b, m, d_language).

A connector is one file in this folder and one line in `CONNECTORS`.
"""

from __future__ import annotations

from msgspec.structs import fields

from laterna.errors import LaternaError
from laterna.model.connectors.base import Connector, ConnectorKind
from laterna.model.connectors.linear import LinearConnector
from laterna.model.connectors.mlp import MlpConnector
from laterna.model.connectors.perceiver import PerceiverConnector
from laterna.model.connectors.pool import PoolConnector
from laterna.model.connectors.qformer import QFormerConnector
from laterna.model.connectors.resampler import ResamplerConnector
from laterna.recipe import ConnectorSettings

CONNECTORS: dict[str, ConnectorKind] = {
    "linear": LinearConnector,
    "mlp": MlpConnector,
    "pool": PoolConnector,
    "qformer": QFormerConnector,
    "perceiver": PerceiverConnector,
    "resampler": ResamplerConnector,
}


def build_connector(
    settings: ConnectorSettings,
    d_vision: int,
    d_language: int,
    *,
    fresh: bool = True,
    newline: bool = False,
) -> Connector:
    """Build the connector that the recipe names, with first weights from torch's generator.

    `fresh` takes weights from `settings.source` where it names one; those of a checkpoint are
    loaded afterwards. `newline` adds the vector that ends the rows of tiled images
    (`vision.fit = "anyres"`). Raises LaternaError for an unknown kind, a setting that the kind
    does not use or cannot take, and a newline for tokens that are not a map of the image.
    """
    if settings.kind not in CONNECTORS:
        known = ", ".join(CONNECTORS)
        raise LaternaError(f"connector.kind = {settings.kind!r}: no such kind; use one of {known}")
    kind = CONNECTORS[settings.kind]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in kind.uses | {"kind"} and value != field.default:
            used = ", ".join(sorted(kind.uses)) or "none"
            raise LaternaError(
                f"connector.{field.name} = {value!r}: a connector of kind {settings.kind!r} does "
                f"not use it; it uses {used}"
            )
    connector = kind(settings, d_vision, d_language)
    if fresh:
        connector.initialize(settings)
    if newline:
        if not connector.is_map:
            raise LaternaError(
                f"connector.kind = {settings.kind!r} with vision.fit = 'anyres': its tokens are no "
                "map of the image, so tiles cannot be joined; choose another of the two"
            )
        connector.add_newline(d_language)
    return connector


__all__ = ["CONNECTORS", "Connector", "ConnectorKind", "build_connector"]
