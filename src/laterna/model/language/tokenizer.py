"""Tokenizers as their models know them: SentencePiece's cut every text as SentencePiece does.

transformers 5 builds Llama's tokenizer anew from `tokenizer.model` or `tokenizer.json`, and
differs from SentencePiece: it merges in the order of ids where SentencePiece goes by scores, so
runs of spaces are cut otherwise; it puts no space before a text that begins with one; and beside a
configuration of type `llava` it puts none before any text. Here the backend is given
SentencePiece's own rules. `legacy` is as in transformers: true, a space is put before every stretch
between special tokens; false, before a text's first alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from laterna.errors import LaternaError, package
from laterna.model.pretrained import file_of, read_part
from laterna.model.sources import gguf_file, resolve
from laterna.model.weight_files import POINTED, POINTER, pointers_in
from laterna.recipe import LanguageSettings

SPACE = "▁"
_PROBES = (
    "The cat, the dog.",
    " two  spaces   and    more ",
    "\n\n  \tx = 1\n",
    "Größe 日本語 😀",
    "1 2  3",
    "    x = 1\n    y = 2",
    "",
)
"""Texts on which a tokenizer is compared with SentencePiece itself."""


def read_tokenizer(source: str) -> Any:
    """Read the tokenizer of a folder or hub id.

    One of Llama's class is rebuilt: by `tokenizer.model`, where there is one and the package
    sentencepiece reads it, with spaces treated as SentencePiece does. Raises LaternaError where
    there is no tokenizer, and where the rebuilt one tokenizes a text otherwise than SentencePiece.
    """
    path = file_of(source, "tokenizer.model")
    processor = _processor(path, source) if path else None
    tokenizer = read_part(
        lambda: AutoTokenizer.from_pretrained(source), source=source, what="tokenizer"
    )
    if str(tokenizer.chat_template).encode().startswith(POINTER):
        raise LaternaError(POINTED.format(path=Path(source) / "chat_template.jinja"))
    config = _json(source, "tokenizer_config.json")
    kind = str(config.get("tokenizer_class") or type(tokenizer).__name__).removesuffix("Fast")
    if kind != "LlamaTokenizer" or config.get("add_prefix_space") is False or not tokenizer.is_fast:
        return tokenizer
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if not isinstance(backend.model, models.BPE):
        return tokenizer
    _set_spaces(backend, legacy=_is_legacy(source, config.get("legacy")))
    if processor is not None:
        backend.model = _by_scores(processor)
        _require_equal(backend, processor, source)
    return _rebuilt(tokenizer, backend)


def _is_legacy(source: str, stated: bool | None) -> bool:
    """Return what `tokenizer_config.json` states, or what the rules in `tokenizer.json` amount to.

    Where neither says anything, it is true, as it was before transformers had the setting.
    """
    if stated is not None:
        return stated
    rule = _json(source, "tokenizer.json").get("pre_tokenizer") or {}
    return bool(rule.get("prepend_scheme", "always") != "first")


def _set_spaces(backend: Tokenizer, *, legacy: bool) -> None:
    mark = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), mark])
        backend.pre_tokenizer = None
        return
    backend.normalizer = mark
    # The normalizer has turned every space into a mark. Metaspace adds no mark before a text that
    # begins with one, so the first step adds a space, and the second turns it into a mark.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False),
        ]
    )


def _by_scores(processor: Any) -> models.BPE:
    """Return a model that merges any two neighbors that make a piece, the best score first."""
    pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        (-processor.get_score(number), -len(piece), -at, piece[:at], piece[at:])
        for number, piece in enumerate(pieces)
        if not (processor.is_byte(number) or processor.is_control(number))
        and not processor.is_unknown(number)
        for at in range(1, len(piece))
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    # Of equal scores SentencePiece takes the leftmost pair, which in a run grows its first piece.
    ordered = [(left, right) for *_, left, right in sorted(merges)]
    unknown = pieces[processor.unk_id()]
    return models.BPE(vocabulary, ordered, fuse_unk=True, byte_fallback=True, unk_token=unknown)


def _require_equal(backend: Tokenizer, processor: Any, source: str) -> None:
    for text in _PROBES:
        ours = backend.encode(text, add_special_tokens=False).ids
        if ours != processor.encode(text):
            raise LaternaError(
                f"{source}: its tokenizer cuts {text!r} otherwise than its tokenizer.model does in "
                "SentencePiece; give the folder a tokenizer.json that the model was trained with"
            )


def _processor(path: Path, source: str) -> Any:
    for pointer in pointers_in(path):
        raise LaternaError(POINTED.format(path=pointer))
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        return None  # there is a tokenizer.json too, or transformers will say so
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        if file_of(source, "tokenizer.json") is not None:
            return None  # of another kind, such as tiktoken's
        raise LaternaError(
            f"{path}: damaged, or no model of SentencePiece's; fetch it again"
        ) from error


def _rebuilt(tokenizer: Any, backend: Tokenizer) -> Any:
    """Return a tokenizer of transformers' plain class, which uses its backend unchanged."""
    special = {
        name: token
        for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")
        if (token := getattr(tokenizer, name, None))
    }
    rebuilt = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=tokenizer.name_or_path,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=False,
        **special,
    )
    rebuilt.chat_template = tokenizer.chat_template
    return rebuilt


def _json(source: str, name: str) -> dict[str, Any]:
    path = file_of(source, name)
    found: dict[str, Any] = json.loads(path.read_bytes()) if path else {}
    return found


def load_tokenizer(settings: LanguageSettings, folder: Path | None = None) -> Any:
    """Load a language model's tokenizer alone, from the source or from a checkpoint.

    Raises LaternaError when it is missing.
    """
    source = str(folder) if folder else resolve(settings.source)
    packed = gguf_file(source)
    if not packed:
        return read_tokenizer(source)
    package("gguf", "gguf", f"{packed}: reading it")
    tokenizer = read_part(
        lambda: AutoTokenizer.from_pretrained(str(packed.parent), gguf_file=packed.name),
        source=str(packed),
        what="tokenizer",
    )
    _set_pre_tokenizer(tokenizer, packed)
    return tokenizer


def _byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _digits_then_byte_level() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


PRE_TOKENIZERS = {"gpt-2": _byte_level, "smollm": _digits_then_byte_level}
"""How a byte-level tokenizer cuts text before merging, by a GGUF's `tokenizer.ggml.pre`."""


def _set_pre_tokenizer(tokenizer: Any, path: Path) -> None:
    """Make a tokenizer that transformers read from a GGUF cut text as the file says.

    transformers takes GPT-2's rule for every byte-level tokenizer, whatever `tokenizer.ggml.pre`
    says: SmolLM2's, which was taught on single digits, would read `2026` as one token.
    Raises LaternaError for a rule that is not in `PRE_TOKENIZERS`.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = [reader.get_field(f"tokenizer.ggml.{key}") for key in ("model", "pre")]
    kind, pre = (str(field.contents()) if field else "default" for field in fields)
    if kind != "gpt2":
        return
    if pre not in PRE_TOKENIZERS:
        raise LaternaError(
            f"{path}: its tokenizer cuts text by the rule {pre!r}, known are: "
            f"{', '.join(PRE_TOKENIZERS)}; give the model as a folder with a tokenizer.json"
        )
    tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
