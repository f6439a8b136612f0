"""What a user says of foreign files beyond what they say themselves, and the recipe they become."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from laterna.data.chat import SHIPPED_TEMPLATES, load_template
from laterna.errors import LaternaError
from laterna.model.build import join
from laterna.model.connectors import Connector
from laterna.model.importers.chat_form import in_our_form
from laterna.model.vision import VisionTower
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import (
    ConnectorSettings,
    Fit,
    LanguageSettings,
    Recipe,
    StageSettings,
    VisionSettings,
)

FALLBACK_TEMPLATE = "vicuna_v1"
"""What LLaVA v1 and v1.5 were trained with; their tokenizers carry no template."""


class Options(NamedTuple):
    """Arguments of `exchange.load`; empty: as the files say."""

    language: str = ""
    vision: str = ""
    template: str = ""
    fit: str = ""

    def fit_or(self, said: str) -> Any:
        """Return how pictures fit; `said` is what the files say. Raises LaternaError."""
        fit = self.fit or said
        known = [name for name in get_args(Fit) if name != "anyres"]  # that is another connector
        if fit not in known:
            raise LaternaError(f"fit = {fit!r}: use one of {', '.join(known)}")
        return fit

    def template_or(self, own: str | None, tokenizer: Any) -> str:
        """Return the text of the chat template; `own` is the one that the files hold, if any."""
        if self.template in SHIPPED_TEMPLATES or (not own and not self.template):
            return load_template(self.template or FALLBACK_TEMPLATE, tokenizer)
        if self.template not in ("", "own") or not own:
            known = ", ".join(["own", *SHIPPED_TEMPLATES])
            raise LaternaError(
                f"template = {self.template!r}: use one of {known}; `own` needs files with a "
                "chat template"
            )
        return in_our_form(own, tokenizer)


class Parts(NamedTuple):
    """The parts of an imported assistant, as they were read."""

    vision: VisionTower
    connector: Connector
    language: Any
    tokenizer: Any


def assembled(
    source: str,
    parts: Parts,
    *,
    template: str,
    vision: VisionSettings,
    connector: ConnectorSettings,
    language: str,
) -> VisionLanguageModel:
    """Join imported parts to an assistant with the recipe that describes them.

    Its stages name `unknown` data, for that is what a foreign checkpoint was trained on.
    `language` is the source of the base model.
    """
    parts.tokenizer.chat_template = template  # so that `own` is this one
    recipe = Recipe(
        name=f"imported from {source}",
        vision=vision,
        connector=connector,
        language=LanguageSettings(source=language),
        align=StageSettings(data="unknown"),
        instruct=StageSettings(data="unknown"),
    )
    return join(
        recipe,
        parts.vision,
        parts.language,
        tokenizer=parts.tokenizer,
        template=template,
        connector=parts.connector,
    )
