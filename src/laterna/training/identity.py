"""Which run this is: the digest of all that decides what a stage learns."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from laterna.data.preparation import DIGESTS
from laterna.data.sources import HUB, Contents
from laterna.model.checkpoint import MANIFEST
from laterna.recipe import Recipe, StageName
from laterna.training.savings import CHANGES_RESULTS

HOW = ("run", "threads", "prepared", "feature_cache")
"""Settings of how a run is carried out. Their names are left out too, so that a setting which a
later version adds to `run` hinders no resume."""


def run_digest(
    recipe: Recipe, stage: StageName, start: Path | None, contents: Contents | None = None
) -> str:
    """Digest a stage's settings, data and start; equal digests mean equal results.

    How the run is carried out (`HOW`, and `savings` that change no results) and the other stage
    are left out. Of the pictures only the names count, but those that lie in a dataset's folder.
    `contents` are the data's as they were found at this start; None: they are looked at now.
    Raises LaternaError where a hub that data comes from does not answer.
    """
    settings = msgspec.structs.replace(
        recipe,
        savings=tuple(sorted(CHANGES_RESULTS.intersection(recipe.savings))),
        align=recipe.stage(stage),
        instruct=recipe.stage(stage),
    )
    told = msgspec.to_builtins(settings)
    for name in HOW:
        del told[name]
    digest = hashlib.sha256(msgspec.json.encode((stage, told)))
    contents = contents or Contents(Path(recipe.prepared) / DIGESTS)
    for source in settings.align.mixture():
        _add(digest, source.data, contents)
    if start is not None:
        manifest = start / MANIFEST
        _add(digest, str(manifest if manifest.is_file() else start), contents)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, where: str, contents: Contents) -> None:
    """Add what a source or file holds; nothing for what is not there, which others will say."""
    if Path(where).is_file():
        digest.update(bytes.fromhex(contents.digest(where)))
    elif where.startswith(HUB) or Path(where).is_dir():
        digest.update(contents.digest(where).encode())
