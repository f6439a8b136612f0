"""Connectors: from vision features (b, n, d_vision) to language embeddings (b, m, d_language).

A connector is one file in this folder and one line in `CONNECTORS`.
"""

from __future__ import annotations

from collections.abc import Callable

from laterna.errors import LaternaError
from laterna.model.connectors.base import Connector
from laterna.model.connectors.linear import LinearConnector
from laterna.model.connectors.mlp import MlpConnector
from laterna.recipe import ConnectorSettings

CONNECTORS: dict[str, Callable[[ConnectorSettings, int, int], Connector]] = {
    "linear": LinearConnector,
    "mlp": MlpConnector,
}


def build_connector(settings: ConnectorSettings, d_vision: int, d_language: int) -> Connector:
    """Build the connector that the recipe names, with fresh weights from torch's generator.

    Raises LaternaError for an unknown kind or a setting that the kind cannot use.
    """
    if settings.kind not in CONNECTORS:
        known = ", ".join(CONNECTORS)
        raise LaternaError(f"connector.kind = {settings.kind!r}: no such kind; use one of {known}")
    return CONNECTORS[settings.kind](settings, d_vision, d_language)


__all__ = ["CONNECTORS", "Connector", "LinearConnector", "MlpConnector", "build_connector"]
