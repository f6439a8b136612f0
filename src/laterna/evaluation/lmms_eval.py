"""Laterna as a model of lmms-eval: `python -m lmms_eval --model laterna --model_args pretrained=M`.

lmms-eval finds `MANIFEST` by the entry point `lmms_eval.models`, and drops a model whose module
cannot be imported with no more than a warning. So nothing is imported here but the host's own
modules and light ones; the network comes with the first model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from laterna.errors import LaternaError
from laterna.records import DEFAULT_IMAGE_TOKEN, Turn

if TYPE_CHECKING:
    from laterna.inference.generation import Prompt
    from laterna.inference.sampling import Decoding

MANIFEST = ModelManifest("laterna", chat_class_path=f"{__name__}.LaternaModel")
DEFAULT_TOKENS = 1024
"""Longest answer where a task does not say, as for most of lmms-eval's own models."""
_BLANK_LINE = "\n\n"
"""The host adds it to `until` for few-shot prompts; a chat's answer may hold one."""


class LaternaModel(lmms):  # type: ignore[misc]  # the host has no types
    """An assistant that lmms-eval asks; the engine answers many questions at once."""

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,  # noqa: ARG002  # the host names it always
        **files: str,
    ) -> None:
        """Load the model `pretrained`; the other arguments are those of `laterna.load`.

        A `batch_size` above 1 is the number of questions that are answered at once. Raises
        LaternaError where the model cannot be loaded.
        """
        from laterna.inference.assistant import Assistant, load
        from laterna.inference.batching.pace import EngineSettings

        super().__init__()
        texts = {name: str(value) for name, value in files.items()}
        self.assistant = load(str(pretrained), device=device, dtype=dtype, **texts)
        rows = str(batch_size)
        if rows.isdecimal() and int(rows) > 1:  # 1 is the host's default
            self.assistant = Assistant(self.assistant.model, EngineSettings(rows=int(rows)))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer each request; questions that are decoded alike are answered together.

        Raises LaternaError for what cannot be asked, the question named: no error is an answer.
        """
        said: list[str] = []
        for decoding, alike in groupby(
            requests, key=lambda request: read_decoding(request.args[2])
        ):
            prompts = (self._prompt(request) for request in alike)
            found = self.assistant.engine.answers(prompts, decoding, fit=True)
            said += [answer.text.strip() for answer in found]
        return said

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Answer each request's rounds, as many as its task has; each sees the answers before."""
        return [list(self._rounds(request)) for request in requests]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raise LaternaError: the host asks models of messages for answers alone."""
        raise LaternaError(
            f"{len(requests)} requests for likelihoods: laterna gives answers alone; choose a task "
            "of output_type generate_until"
        )

    def _rounds(self, request: Any) -> Iterator[str]:
        said: list[str] = []
        told, messages = None, request.args[1](self._document(request))
        while True:
            prompt = self._prompt(request, messages)
            decoding = read_decoding(request.args[2])
            (answer,) = self.assistant.engine.answers([prompt], decoding, fit=True)
            said.append(answer.text.strip())
            yield said[-1]
            following = request.args[1](
                self._document(request),
                round_idx=len(said),
                previous_output=list(said),
                previous_round_info=told,
            )
            if not isinstance(following, tuple) or following[1]:
                return
            messages, _, _, told = following

    def _document(self, request: Any) -> Any:
        # Six: the host's guide names five for chat models, and leaves out the context before them.
        *_, number, task, split = request.args
        return self.task_dict[task][split][number]

    def _prompt(self, request: Any, messages: Any = None) -> Prompt:
        try:
            return read_messages(messages or request.args[1](self._document(request)))
        except LaternaError as error:
            raise LaternaError(f"{request.args[4]}, document {request.args[3]}: {error}") from error


def read_decoding(asked: Mapping[str, Any]) -> Decoding:
    """Return how a task's `generation_kwargs` have answers decoded.

    Greedy if they say `do_sample: false` or no temperature, whatever else stands there. Raises
    LaternaError for more than one beam, and for values that cannot be meant.
    """
    from laterna.inference.sampling import Decoding

    if (asked.get("num_beams") or 1) != 1:
        raise LaternaError(f"num_beams = {asked['num_beams']}: laterna has no beam search; give 1")
    until = asked.get("until") or ()
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    longest = int(asked.get("max_new_tokens") or DEFAULT_TOKENS)
    decoding = Decoding(
        max_new_tokens=longest, stop=tuple(text for text in stop if text != _BLANK_LINE)
    )
    temperature = float(asked.get("temperature") or 0)
    if asked.get("do_sample") is False or not temperature:
        return decoding
    from msgspec.structs import replace

    top_p, top_k = asked.get("top_p"), asked.get("top_k")
    return replace(
        decoding,
        temperature=temperature,
        top_p=1.0 if top_p is None else float(top_p),
        top_k=int(top_k or 0),
        seed=asked.get("seed"),
    )


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """Return the turns and images of lmms-eval's messages, `<image>` where an image stands.

    The parts of a message are lines. Raises LaternaError for a part that is neither text nor
    image, and for a text that itself holds the mark of an image.
    """
    turns, images = [], []
    for message in messages:
        lines = []
        for part in message["content"]:
            if part["type"] == "image":
                lines.append(DEFAULT_IMAGE_TOKEN)
                images.append(_opened(part["url"]))
            elif part["type"] != "text":
                raise LaternaError(f"a part of type {part['type']}; laterna sees images alone")
            elif DEFAULT_IMAGE_TOKEN in part["text"]:
                raise LaternaError(f"its text holds {DEFAULT_IMAGE_TOKEN}, which no text may")
            else:
                lines.append(part["text"])
        turns.append(Turn(role=message["role"], text="\n".join(lines)))
    return turns, images


def _opened(image: Any) -> Image.Image:
    from laterna.data.images.opening import load_image

    return image.convert("RGB") if isinstance(image, Image.Image) else load_image(Path(image))
