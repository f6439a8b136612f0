"""A language model in this process: a Hugging Face folder or a GGUF file, through transformers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from laterna.errors import LaternaError
from laterna.records import Message, Reply, Usage
from laterna.synthesis.settings import Endpoint
from laterna.synthesis.teachers.base import Failures, Identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAX_TOKENS = 512
"""Longest reply unless told otherwise; a model of its own accord might never end."""


class _Loaded(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class LocalTeacher:
    """Answers one chat at a time, in a thread; the model is loaded with the first.

    Without a temperature, or with 0, the likeliest token is taken each time. With one, each
    reply is drawn from a seed made of its own prompt, so that order does not matter.
    """

    at_once = 4
    """One is answered while others wait for the ledger."""

    def __init__(self, endpoint: Endpoint, before_call: Callable[[], None]) -> None:
        self.identity = local_identity(endpoint)
        self.failures = Failures()
        self._path = Path(endpoint.model)
        self._endpoint = endpoint
        self._before_call = before_call
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher")
        self._loaded: _Loaded | None = None

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the model's reply; raise LaternaError when the model cannot be loaded."""
        self._before_call()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, tuple(messages))

    async def close(self) -> None:
        """Let go of the model."""
        self._thread.shutdown(cancel_futures=True)
        self._loaded = None

    def _answer(self, messages: Sequence[Message]) -> Reply:
        import torch

        if self._loaded is None:
            self._loaded = _load(self._path)
        model, tokenizer = self._loaded
        prompt = tokenizer.apply_chat_template(
            [msgspec.to_builtins(message) for message in messages],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        length = int(prompt["input_ids"].shape[1])
        temperature = self._endpoint.temperature or 0.0
        sampling: dict[str, bool | float] = {"do_sample": False}
        if temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": temperature,
                "top_p": 1.0 if self._endpoint.top_p is None else self._endpoint.top_p,
            }
            torch.manual_seed(int(prompt["input_ids"].sum()))
        limit = self._endpoint.max_tokens or _MAX_TOKENS
        started = time.monotonic()
        with torch.inference_mode():
            (ids,) = model.generate(**prompt, max_new_tokens=limit, **sampling)
        written = ids[length:]
        return Reply(
            text=tokenizer.decode(written, skip_special_tokens=True).strip(),
            finish_reason="length" if len(written) >= limit else "stop",
            usage=Usage(prompt_tokens=length, completion_tokens=len(written)),
            seconds=time.monotonic() - started,
        )


def local_identity(endpoint: Endpoint) -> Identity:
    """Return who a model of this machine is: its name and size, not the place it lies in."""
    path = Path(endpoint.model)
    if not endpoint.model or not path.exists():
        raise LaternaError(f"{endpoint.model!r}: no model there; name a folder or a GGUF file")
    if endpoint.parameters:
        raise LaternaError("a local model takes no further parameters; leave --parameters out")
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    chosen = {name: getattr(endpoint, name) for name in ("temperature", "top_p", "max_tokens")}
    parameters = {
        name: msgspec.Raw(msgspec.json.encode(value))
        for name, value in chosen.items()
        if value is not None
    }
    model = f"{path.resolve().name} ({size} bytes)"
    return Identity(teacher="local", model=model, parameters=parameters)


def _load(path: Path) -> _Loaded:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        if path.is_file():
            file = path.name
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=file)
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=file, quantization_config=GgufConfig(dequantize=True)
            )
        else:
            tokenizer = AutoTokenizer.from_pretrained(path)
            model = AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError, ImportError) as error:
        raise LaternaError(f"{path}: cannot be loaded as a language model: {error}") from error
    return _Loaded(model.eval(), tokenizer)
