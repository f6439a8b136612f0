"""What is served and how, and the exports that other engines serve."""

from __future__ import annotations

import ipaddress
import sys
from hashlib import sha256
from pathlib import Path

from laterna.files import read_made
from laterna.records import Record


class Listening(Record):
    """What is served, and how; the fields are explained in `laterna serve --help`."""

    host: str
    port: int
    name: str
    model: str = ""
    """A checkpoint, a foreign folder or a hub id."""
    device: str | None = None
    dtype: str | None = None
    key: str = ""
    rows: int = 32
    queue: int = 256
    image_hosts: tuple[str, ...] = ()
    answer_seconds: float = 600.0
    grace: int = 30
    cache_bytes: int | None = None
    threads: int | None = None
    log_prompts: bool = False
    open: bool = False

    @property
    def address(self) -> str:
        """Of the page, as a browser on this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def is_own(host: str) -> bool:
    """Say whether a host's name or address always means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exported(model: str, to: str, precision: str) -> Path:
    """Return a folder with a model in another engine's format, made when it is first asked for.

    It lies in the user's cache under a name made of what the model holds: another content, format
    or version of Laterna is another folder, and a copy of the model elsewhere is the same one.
    Raises LaternaError as `laterna.model.exporters.export` does.
    """
    from laterna.data.fingerprints import user_folder
    from laterna.model.exporters import export, require_possible
    from laterna.model.importers import read_model
    from laterna.version import __version__

    require_possible(to, precision)
    if not (known := _fingerprint(model)):
        read_model(model)  # from the hub, or the error that says why not
        known = _fingerprint(model)
    of = {"model": known, "precision": precision, "laterna": __version__}
    name = sha256(repr(sorted(of.items())).encode()).hexdigest()[:16]
    folder = user_folder("exports") / f"{name}-{to}"
    made = read_made(folder)
    if made and made.of == of and all((folder / file).is_file() for file in made.files):
        return folder
    sys.stderr.write(f"exporting {model} to {folder}, once; it may be removed at any time\n")
    return export(read_model(model), folder, to, precision, overwrite=True, of=of)


def _fingerprint(model: str) -> str:
    """Return what tells a model from others wherever it lies; empty for one that is not here."""
    from laterna.data.fingerprints import Fingerprints
    from laterna.model.checkpoint import MANIFEST, checkpoint_fingerprint
    from laterna.model.sources import base_fingerprint

    known, folder = Fingerprints(), Path(model)
    if (folder / MANIFEST).is_file():
        return checkpoint_fingerprint(folder, known)
    return known.of(model) if folder.is_dir() else base_fingerprint(model, known)
