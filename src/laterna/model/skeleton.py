"""An assistant's three parts from their configurations alone: shapes, and no weights.

They lie on torch's meta device, so those of a model of any size are there at once and take no
memory. A folder that holds nothing but `config.json` is enough.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from laterna.data.picture_tokens import SameTokens, TiledTokens
from laterna.data.pictures import PicturePreparer
from laterna.model.builtin import resolve
from laterna.model.connectors import Connector, build_connector
from laterna.model.language import positions_of
from laterna.model.packaged import gguf_file
from laterna.model.pretrained import no_config, quiet_transformers
from laterna.model.tiles import token_counter
from laterna.model.vision import VisionTower
from laterna.model.vision.loading import blank_vision
from laterna.recipe import LanguageSettings, PartName, Recipe


class Skeleton:
    """Vision tower, connector and language model on the meta device.

    It can be given to `training.stages.apply_stage` in an assistant's place.
    """

    def __init__(
        self, vision: VisionTower, connector: Connector, language: Any, prepare: PicturePreparer
    ) -> None:
        self.vision = vision
        self.prepare = prepare
        self.connector = connector
        self.language = language
        self.changed: set[PartName] = set()

    def parts(self) -> dict[PartName, nn.Module]:
        """Return the three parts by the names that recipes give them."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}

    def adaptable(self) -> dict[PartName, nn.Module]:
        """Return the modules that may carry adapters, by part."""
        return {"vision": self.vision.model, "language": self.language}


def build_skeleton(recipe: Recipe) -> Skeleton:
    """Build the parts that a recipe names, reading configurations and nothing else.

    The embedding has the rows that its configuration says: a tokenizer with more tokens, for
    which loading would grow it, is not read. Raises LaternaError when a configuration is missing
    or of a kind that is not supported.
    """
    with torch.device("meta"):
        vision = blank_vision(recipe.vision)
        language = _blank_language(recipe.language)
        width = int(language.get_input_embeddings().embedding_dim)
        prepare = PicturePreparer(vision.processor, recipe.vision.fit, recipe.vision.grids)
        connector = build_connector(
            recipe.connector, vision.width, width, fresh=False, newline=bool(prepare.grids)
        )
    return Skeleton(vision, connector.eval(), language, prepare)


def picture_counter(recipe: Recipe) -> SameTokens | TiledTokens:
    """Say how many tokens a picture takes in a recipe's assistant, as the assistant would.

    Reads the encoder's configuration and nothing else: no language model is looked at, for its
    width changes no count. Raises LaternaError as `build_skeleton` does.
    """
    with torch.device("meta"):
        vision = blank_vision(recipe.vision)
        prepare = PicturePreparer(vision.processor, recipe.vision.fit, recipe.vision.grids)
        connector = build_connector(
            recipe.connector, vision.width, vision.width, fresh=False, newline=bool(prepare.grids)
        )
    return token_counter(prepare, connector.tokens(vision.patches))


def language_positions(recipe: Recipe) -> int | None:
    """Return how many tokens a recipe's language model can read at once, if its configuration says.

    Raises LaternaError as `build_skeleton` does.
    """
    return positions_of(_language_config(recipe.language))


def _blank_language(settings: LanguageSettings) -> Any:
    config = _language_config(settings)
    try:
        with quiet_transformers():
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    except (OSError, ValueError, KeyError) as error:
        raise no_config(settings.source, "language model", error) from error


def _language_config(settings: LanguageSettings) -> Any:
    source = resolve(settings.source)
    packed = gguf_file(source)
    where, options = source, {}
    if packed:
        where, options = str(packed.parent), {"gguf_file": packed.name}
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError) as error:
        raise no_config(source, "language model", error) from error
