"""Fit a linear connector to the words of captions, without training: word_connector.py --help.

Each patch is mapped to the words it makes likelier: ridge regression from a picture's mean
features to the mean embedding of its captions' words. The regression is linear, so what holds of
the mean over the patches is applied to each patch alone. Then all is scaled to the length of the
language model's embeddings. No box is used. The file is for `laterna train --start`.

Shapes: b pictures · n patches · d width of the features · e width of the embeddings · v words.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from laterna.data.pictures import load_picture
from laterna.errors import LaternaError, told
from laterna.files import write_atomically
from laterna.model.assistant import Assistant, load_assistant_from
from laterna.model.connectors.calibration import rescale
from laterna.model.connectors.linear import LinearConnector
from laterna.recipe import load_recipe
from laterna.records import Sample
from prepared_samples import prepared_samples

RIDGE = 1.0
"""Weight of the penalty, as a share of the features' mean variance over all pictures. Of 0.01 to
10 it named colours and kinds of the world's held-out toys best (docs/real-small.md)."""
PICTURES_A_PASS = 32


class Line(NamedTuple):
    """A linear map: features (…, d) times `weight_ed` transposed, plus `bias_e`."""

    weight_ed: Tensor
    bias_e: Tensor


def fit_words(assistant: Assistant, samples: Sequence[Sample], pictures: Path) -> int:
    """Give the assistant's linear connector weights that fit its captions' words.

    `samples` show one picture each, of the folder `pictures`; their words are their targets.
    Returns how many pictures there are. Raises LaternaError for another connector, or fewer than
    two pictures.
    """
    connector = assistant.connector
    if not isinstance(connector, LinearConnector):
        raise LaternaError(
            f"{type(connector).__name__}: only a linear connector is fitted; "
            "set connector.kind = 'linear' in the recipe"
        )
    bags: dict[str, list[int]] = defaultdict(list)
    for sample in samples:
        learned = zip(sample.input_ids, sample.targets, strict=True)
        bags[sample.pictures[0]] += [word for word, target in learned if target]
    if len(bags) < 2:
        raise LaternaError(f"{pictures}: {len(bags)} pictures with captions; give at least 2")
    features_bnd = _features(assistant, pictures, list(bags))
    table_ve = assistant.language.get_input_embeddings().weight.detach().float()
    words_be = torch.stack([table_ve[torch.tensor(bag)].mean(0) for bag in bags.values()])
    line = ridge(features_bnd, words_be)
    with torch.no_grad():
        connector.project.weight.copy_(line.weight_ed)
        connector.project.bias.copy_(line.bias_e)
        length = float(table_ve.norm(dim=-1).square().mean().sqrt())
        rescale(connector.project, connector(features_bnd), length)
    return len(bags)


def ridge(features_bnd: Tensor, words_be: Tensor) -> Line:
    """Return the map from a patch to how it moves its picture's words away from their mean.

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


@torch.no_grad()
def _features(assistant: Assistant, folder: Path, names: Sequence[str]) -> Tensor:
    chunks = []
    for start in range(0, len(names), PICTURES_A_PASS):
        chunk = [load_picture(folder / name) for name in names[start : start + PICTURES_A_PASS]]
        chunks.append(assistant.vision(assistant.prepare(chunk)))
    return torch.cat(chunks)


def main() -> None:
    """Read the command line, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="name or file of a recipe with a linear connector")
    parser.add_argument("data", type=Path, help="caption records, one picture each")
    parser.add_argument("pictures", type=Path, help="folder of their pictures")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    assistant = load_assistant_from(recipe)
    samples = prepared_samples(
        assistant, given.data, given.pictures, max_tokens=recipe.align.max_tokens
    )
    pictures = fit_words(assistant, samples, given.pictures)
    state: dict[str, Tensor] = nn.Module.state_dict(assistant.connector)
    with write_atomically(given.out) as aside:
        save_file(state, aside)
    print(f"fitted to the captions of {pictures} pictures; made {given.out}")


if __name__ == "__main__":
    sys.exit(told(main))
