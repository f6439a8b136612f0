"""BLIP-2's Q-Former: learned queries that attend to the features, then one linear layer.

The Q-Former is transformers' own `Blip2QFormerModel`, without the branch that reads text.

Shapes: b images · n features · m queries · d width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Blip2QFormerConfig, Blip2QFormerModel

from laterna.errors import LaternaError
from laterna.model.connectors.base import Connector
from laterna.model.pretrained import read_part, read_tensors
from laterna.recipe import ConnectorSettings

QUERIES = 32
BLOCKS = 12
WIDTH = 768
HEAD_WIDTH = 64
"""BLIP-2's sizes; 12 heads of 64, cross-attention in every second block."""
TYPE = "blip-2"
"""The `model_type` of checkpoints that hold a Q-Former of this kind."""


class QFormerConnector(Connector):
    """`queries` learned queries through `blocks` blocks, then one linear layer.

    At BLIP-2's size with its 1408-wide encoder the Q-Former and its queries have 105.2 M weights.
    The 188 M that BLIP-2's paper counts include the text branch and the pair scoring, which an
    assistant does not run: docs/models.md has the sum.

    With `frozen_qformer` the Q-Former and its queries never train, whatever the stage says: only
    the linear layer does, as in MiniGPT-4.
    """

    uses: ClassVar[frozenset[str]] = frozenset(
        {"blocks", "queries", "width", "source", "frozen_qformer"}
    )

    def __init__(self, settings: ConnectorSettings, d_vision: int, d_language: int) -> None:
        """Raise LaternaError for impossible sizes, and for a frozen Q-Former without weights."""
        super().__init__()
        width = settings.count("width", default=WIDTH)
        if width % HEAD_WIDTH:
            raise LaternaError(f"connector.width = {width}: a Q-Former has heads of {HEAD_WIDTH}")
        if settings.frozen_qformer and not settings.source:
            raise LaternaError(
                "connector.frozen_qformer = true: a Q-Former that does not train needs weights; "
                "set connector.source to a BLIP-2 checkpoint"
            )
        self.config = Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=settings.count("blocks", default=BLOCKS),
            num_attention_heads=width // HEAD_WIDTH,
            intermediate_size=4 * width,
            encoder_hidden_size=d_vision,
        )
        queries = settings.count("queries", default=QUERIES)
        self.queries = nn.Parameter(torch.randn(1, queries, width) * self.config.initializer_range)
        self.qformer = Blip2QFormerModel(self.config)
        self.project = nn.Linear(width, d_language)
        self.frozen = settings.frozen_qformer
        self.requires_grad_(True)

    def tokens(self, n: int) -> int:
        """Return how many tokens an image becomes: one a query, whatever `n`."""
        del n
        return int(self.queries.shape[1])

    def forward(self, features_bnd: Tensor) -> Tensor:
        """Map features (b, n, d_vision) to embeddings (b, m, d_language)."""
        hidden = self.qformer(
            query_embeds=self.queries.expand(len(features_bnd), -1, -1),
            encoder_hidden_states=features_bnd,
        ).last_hidden_state
        projected: Tensor = self.project(hidden)
        return projected

    def requires_grad_(self, requires_grad: bool = True) -> QFormerConnector:
        """Set whether the connector trains; a frozen Q-Former never does."""
        super().requires_grad_(requires_grad)
        if self.frozen:
            self.qformer.requires_grad_(False)
            self.queries.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> QFormerConnector:
        """Set training mode; a frozen Q-Former drops nothing out."""
        super().train(mode)
        if self.frozen:
            self.qformer.eval()
        return self

    def initialize(self, settings: ConnectorSettings) -> None:
        """Take Q-Former and queries from `settings.source`, a BLIP-2 folder or hub id.

        Whatever else the checkpoint holds (encoder, language model, text branch) is not read.
        Raises LaternaError when it is no BLIP-2, of another shape, or incomplete.
        """
        source = settings.source
        if not source:
            return
        found = read_part(
            lambda: AutoConfig.from_pretrained(source), source=source, what="Q-Former"
        )
        if found.model_type != TYPE:
            raise LaternaError(
                f"{source}: models of type {found.model_type} hold no Q-Former; give a BLIP-2 "
                f"checkpoint, whose type is {TYPE}"
            )
        self.check_shape(found, source)
        tensors = read_tensors(source, ("qformer.", "query_tokens"), what="Q-Former")
        weights = {
            name: tensors[f"qformer.{name}"]
            for name in self.qformer.state_dict()
            if f"qformer.{name}" in tensors
        }
        lacking = sorted(self.qformer.state_dict().keys() - weights.keys())
        if lacking or "query_tokens" not in tensors:
            raise LaternaError(
                f"{source}: {len(lacking)} weights of the Q-Former are missing"
                f"{f', the first is qformer.{lacking[0]}' if lacking else ', and the queries'}; "
                "fetch the checkpoint again"
            )
        self.qformer.load_state_dict(weights)
        with torch.no_grad():
            self.queries.copy_(tensors["query_tokens"].reshape(self.queries.shape))

    def check_shape(self, found: Any, source: str) -> None:
        """Raise LaternaError where a BLIP-2 configuration has another Q-Former than this one."""
        theirs = found.qformer_config
        rows = {
            "connector.queries": (self.queries.shape[1], found.num_query_tokens),
            "connector.blocks": (self.config.num_hidden_layers, theirs.num_hidden_layers),
            "connector.width": (self.config.hidden_size, theirs.hidden_size),
            "the encoder's width": (self.config.encoder_hidden_size, theirs.encoder_hidden_size),
            "heads": (self.config.num_attention_heads, theirs.num_attention_heads),
            "the feed-forward width": (self.config.intermediate_size, theirs.intermediate_size),
            "blocks a cross-attention": (
                self.config.cross_attention_frequency,
                theirs.cross_attention_frequency,
            ),
        }
        for what, (ours, its) in rows.items():
            if ours != its:
                raise LaternaError(
                    f"{source}: its Q-Former does not fit: {what} is {ours} here and {its} there"
                )
