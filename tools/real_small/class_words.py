"""The words of ImageNet's 1,000 classes: the names and descriptions that WordNet gives them.

They stand in two text files that timm's package carries (`pip install --no-deps timm`; Apache 2.0,
the words under WordNet's licence). They are read without importing timm.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from laterna.errors import LaternaError

FOLDER = "timm/data/_info"
_LITTLE = "a an and as at by for from having in is its of on or that the to used usually which with"
LITTLE_WORDS = frozenset(_LITTLE.split())
"""Words that tell nothing of what a class looks like."""


def imagenet_words() -> list[list[str]]:
    """Return the words of each class, in the order in which classifiers of ImageNet-1k have them.

    "tabby, tabby cat" and "a cat with a grey or tawny coat mottled with black" become tabby,
    tabby, cat, cat, grey, tawny, coat, mottled, black. Raises LaternaError without the package.
    """
    try:
        package = distribution("timm")
    except PackageNotFoundError as error:
        raise LaternaError(
            "the names of ImageNet's classes stand in timm's package: pip install --no-deps timm"
        ) from error
    texts = {
        name: Path(str(package.locate_file(f"{FOLDER}/imagenet_{name}.txt"))).read_text("utf-8")
        for name in ("synsets", "synset_to_lemma", "synset_to_definition")
    }
    names, said = (
        dict(line.split("\t", 1) for line in texts[name].splitlines())
        for name in ("synset_to_lemma", "synset_to_definition")
    )
    return [_words(f"{names[synset]} {said[synset]}") for synset in texts["synsets"].split()]


def _words(text: str) -> list[str]:
    found = re.findall(r"[a-z]+", text.lower())
    return [word for word in found if word not in LITTLE_WORDS]
