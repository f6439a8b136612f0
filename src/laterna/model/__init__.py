"""The assistant: a vision tower, a connector and a language model, joined by composition."""

from __future__ import annotations

from importlib.util import find_spec

from laterna.errors import LaternaError


def _check_torchvision() -> None:
    """Raise LaternaError for a torchvision that does not import.

    Laterna does not need it (but for encoders of timm), but transformers imports it wherever it is
    installed, and its error names some other module.
    """
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401, only to see whether it imports
    except (ImportError, RuntimeError, OSError) as error:
        import torch

        raise LaternaError(
            f"torchvision is installed but does not import ({error}), so neither do parts of "
            f"transformers; install the one that was built for torch {torch.__version__}, or "
            "`pip uninstall torchvision`"
        ) from error


_check_torchvision()
