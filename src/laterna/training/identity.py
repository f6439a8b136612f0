"""Which run this is: the digest of all that decides what a stage learns."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from laterna.data.fingerprints import Fingerprints
from laterna.data.preparation import FINGERPRINTS
from laterna.data.sources import HUB
from laterna.model.checkpoint import MANIFEST, checkpoint_fingerprint, read_manifest
from laterna.model.sources import WEIGHTS, base_fingerprint
from laterna.recipe import PartName, Recipe, StageName
from laterna.training.savings import CHANGES_RESULTS

HOW = ("run", "threads", "prepared", "feature_cache")
"""Settings of how a run is carried out. Their names are left out too, so that a setting which a
later version adds to `run` hinders no resume."""


def run_digest(
    recipe: Recipe, stage: StageName, start: Path | None, known: Fingerprints | None = None
) -> str:
    """Digest a stage's settings, data and first weights; equal digests mean equal results.

    How the run is carried out (`HOW`, and `savings` that change no results) and the other stage
    are left out. Models count by what they hold, wherever they lie. Of the pictures only the names
    count, but those that lie in a dataset's folder. `known` is what is known of files at this
    start; None: they are looked at now. Raises LaternaError where a hub that data comes from does
    not answer, and for a checkpoint to start from that is none.
    """
    known = known or Fingerprints(Path(recipe.prepared) / FINGERPRINTS)
    settings = msgspec.structs.replace(
        recipe,
        savings=tuple(sorted(CHANGES_RESULTS.intersection(recipe.savings))),
        align=recipe.stage(stage),
        instruct=recipe.stage(stage),
    )
    told = msgspec.to_builtins(settings)
    for name in HOW:
        del told[name]
    weights, inside = _start(start, known)
    for part in ("vision", "connector", "language"):
        source = told[part]["source"]
        told[part]["source"] = "" if part in inside else base_fingerprint(source, known) or source
    digest = hashlib.sha256(msgspec.json.encode((stage, told, weights)))
    for source in settings.align.mixture():
        if source.data.startswith(HUB) or Path(source.data).exists():  # else others will say so
            digest.update(known.of(source.data).encode())
    return digest.hexdigest()


def _start(start: Path | None, known: Fingerprints) -> tuple[str, tuple[PartName, ...]]:
    """Return the fingerprint of what a stage starts from, and the parts that are whole in it."""
    if start is None or not start.exists():
        return "", ()
    if (start / MANIFEST).is_file():
        return checkpoint_fingerprint(start, known), read_manifest(start).parts
    return known.of(str(start), WEIGHTS), ()
