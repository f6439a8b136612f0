"""Give a connector first weights that speak in words, without training: word_connector.py --help.

Each patch is mapped to the words that it makes likelier, by ridge regression from an image's mean
features to the mean embedding of its captions' words; the regression is linear, so what holds of
the mean over the patches is applied to each patch alone. Then all is scaled to the length of the
language model's embeddings. No box is used. The file is for `laterna train --init-from`.

From there the connector trains for a few passes without the language model, by the same words
(`real_small.word_learning`).

Shapes: b images · n patches · d width of the features · e width of the embeddings · v words ·
h width of a perceptron's hidden layer.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from laterna.data.images.files import open_images
from laterna.data.images.opening import load_image
from laterna.errors import LaternaError, told
from laterna.files import write_atomically
from laterna.model.build import build_from_recipe
from laterna.model.connectors.base import rescale
from laterna.model.connectors.linear import LinearConnector
from laterna.model.connectors.mlp import MlpConnector
from laterna.model.connectors.pool import PoolConnector
from laterna.model.vision.feature_cache import FeatureStore, cached_features
from laterna.model.vlm import VisionLanguageModel
from laterna.progress import shown_progress
from laterna.recipe import Recipe, load_recipe
from laterna.records import Sample
from real_small.prepared_samples import prepared_samples
from real_small.word_learning import learn_words, through

RIDGE = 1.0
"""Weight of the penalty, as a share of the features' mean variance over all images. Of 0.01 to
10 it named colours and kinds of the world's held-out toys best (NOTES.md)."""
IMAGES_A_PASS = 32


class Line(NamedTuple):
    """A linear map: features (…, d) times `weight_ed` transposed, plus `bias_e`."""

    weight_ed: Tensor
    bias_e: Tensor


def fit_words(
    assistant: VisionLanguageModel,
    samples: Sequence[Sample],
    images: Path,
    *,
    passes: int = 0,
) -> int:
    """Give the assistant's connector weights that map patches to words.

    The connector is `linear`, an `mlp` of two layers, or a `pool` before one. `samples` show one
    image each, of the folder `images`; their words are their targets. Returns how many images
    there are. `passes` are those of `learn_words`. Raises LaternaError for another connector, or
    fewer than two images.
    """
    layers = _layers_of(assistant.connector)
    see = assistant.connector.merged if isinstance(assistant.connector, PoolConnector) else None
    bags: dict[str, list[int]] = defaultdict(list)
    for sample in samples:
        learned = zip(sample.input_ids, sample.targets, strict=True)
        bags[sample.images[0]] += [word for word, target in learned if target]
    if len(bags) < 2:
        raise LaternaError(f"{images}: {len(bags)} images with captions; give at least 2")
    features_bnd = _features(assistant, images, list(bags), see)
    table_ve = _embeddings(assistant)
    line = ridge(features_bnd, torch.stack([_mean_word(table_ve, bag) for bag in bags.values()]))
    hidden = layers[0].out_features
    lines = [line] if len(layers) == 1 else perceptron(line, features_bnd, hidden)
    length = float(_embeddings(assistant).norm(dim=-1).square().mean().sqrt())
    with torch.no_grad():
        for layer, wanted in zip(layers, lines, strict=True):
            layer.weight.copy_(wanted.weight_ed)
            layer.bias.copy_(wanted.bias_e)
        rescale(layers[-1], through(layers, features_bnd), length)
    if passes:
        learn_words(layers, features_bnd, list(bags.values()), table_ve, passes=passes)
        with torch.no_grad():
            rescale(layers[-1], through(layers, features_bnd), length)
    return len(bags)


def ridge(features_bnd: Tensor, words_be: Tensor) -> Line:
    """Return the map from a patch to how it moves its image's words away from their mean.

    Features are standardised first, so that the penalty treats all alike.
    """
    spread_d = features_bnd.flatten(0, 1).std(0).clamp(min=1e-6)
    pooled_bd = (features_bnd / spread_d).mean(1)
    mean_d = pooled_bd.mean(0)
    centred_bd = pooled_bd - mean_d
    penalty = RIDGE * centred_bd.square().sum() / centred_bd.shape[1]
    gram_dd = centred_bd.T @ centred_bd + penalty * torch.eye(centred_bd.shape[1])
    weight_de = torch.linalg.solve(gram_dd, centred_bd.T @ (words_be - words_be.mean(0)))
    return Line((weight_de / spread_d[:, None]).T.contiguous(), -(mean_d @ weight_de))


def perceptron(line: Line, features_bnd: Tensor, hidden: int) -> tuple[Line, Line]:
    """Return two layers that, with GELU between them, are the line, or the nearest of its rank.

    GELU(x) - GELU(-x) = x: `hidden` units in pairs carry the line's `hidden` / 2 largest singular
    directions exactly. Each unit has spread 1 over the features.
    """
    left_ek, sizes_k, right_kd = torch.linalg.svd(line.weight_ed, full_matrices=False)
    rank = min(hidden // 2, len(sizes_k))
    left_ek, right_kd = left_ek[:, :rank] * sizes_k[:rank], right_kd[:rank]
    mean_d = features_bnd.flatten(0, 1).mean(0)
    spread_k = ((features_bnd.flatten(0, 1) - mean_d) @ right_kd.T).std(0).clamp(min=1e-6)
    first_kd, last_ek = right_kd / spread_k[:, None], left_ek * spread_k
    weight_hd = torch.zeros(hidden, len(mean_d))
    weight_hd[: 2 * rank] = torch.cat([first_kd, -first_kd])
    weight_eh = torch.zeros(len(line.bias_e), hidden)
    weight_eh[:, : 2 * rank] = torch.cat([last_ek, -last_ek], dim=1)
    first = Line(weight_hd, -(weight_hd @ mean_d))
    return first, Line(weight_eh, line.bias_e + left_ek @ (right_kd @ mean_d))


def _layers_of(connector: nn.Module) -> list[nn.Linear]:
    """Return the one layer of a linear connector, or the two of a perceptron, after a pool too."""
    if isinstance(connector, LinearConnector):
        return [connector.project]
    if isinstance(connector, PoolConnector):
        return _layers_of(connector.mlp)
    if isinstance(connector, MlpConnector) and len(connector.layers) == 2:
        return [cast(nn.Linear, layer) for layer in connector.layers]
    raise LaternaError(
        f"{type(connector).__name__}: only a linear connector and a perceptron of two layers are "
        "fitted; set connector.kind = 'linear', 'mlp' or 'pool' in the recipe"
    )


def _embeddings(assistant: VisionLanguageModel) -> Tensor:
    table: Tensor = assistant.language.get_input_embeddings().weight
    return table.detach().float()


def _mean_word(table_ve: Tensor, ids: Sequence[int]) -> Tensor:
    return table_ve[torch.tensor(ids)].mean(0)


@torch.no_grad()
def _features(
    assistant: VisionLanguageModel,
    folder: Path,
    names: Sequence[str],
    see: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return what the connector's first layer sees of the images, from the recipe's cache."""
    recipe = assistant.recipe
    store = None
    if recipe is not None and recipe.feature_cache:
        store = _cached(assistant, folder, names, recipe)
    chunks = []
    for start in range(0, len(names), IMAGES_A_PASS):
        chosen = names[start : start + IMAGES_A_PASS]
        if store is None:
            opened = [load_image(folder / name) for name in chosen]
            features_bnd: Tensor = assistant.vision(assistant.prepare(opened))
        else:
            features_bnd = store.get(chosen)
        chunks.append(features_bnd if see is None else see(features_bnd))
    return torch.cat(chunks)


def _cached(
    assistant: VisionLanguageModel, folder: Path, names: Sequence[str], recipe: Recipe
) -> FeatureStore:
    with shown_progress("vision features", total=len(names)) as shown:
        return cached_features(
            assistant.vision,
            assistant.prepare,
            names,
            open_images(str(folder)),
            Path(recipe.feature_cache),
            lambda done, _total: shown.update(done),
            max_gb=recipe.run.max_feature_gb,
            announce=print,
        )


def main() -> None:
    """Read the command line, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="name or file of a recipe")
    parser.add_argument("data", type=Path, help="caption records, one image each")
    parser.add_argument("images", type=Path, help="folder of their images")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--passes", type=int, default=8, help="of learning words; 0: ridge alone")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    assistant = build_from_recipe(recipe)
    samples = prepared_samples(
        assistant, given.data, given.images, max_tokens=recipe.align.max_tokens
    )
    images = fit_words(assistant, samples, given.images, passes=given.passes)
    state: dict[str, Tensor] = nn.Module.state_dict(assistant.connector)
    with write_atomically(given.out) as aside:
        save_file(state, aside)
    print(f"fitted to the words of the captions of {images} images; made {given.out}")


if __name__ == "__main__":
    sys.exit(told(main))
