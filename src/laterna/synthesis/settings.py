"""What a run of synthesis may be told about its teacher's endpoint, its limits and its money."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from laterna.bounds import require_bounds
from laterna.errors import LaternaError
from laterna.recipe import Amount, Count, Seed, Share
from laterna.records import Kind, Record
from laterna.scenes.orientation import View

KINDS: tuple[Kind, ...] = (
    "caption", "conversation", "detail", "reasoning", "negative", "refusal",
)  # fmt: skip
INSTRUCTION_KINDS: tuple[Kind, ...] = ("conversation", "detail", "reasoning")
"""LLaVA's three: what is made unless told otherwise."""
JUDGED_TEACHERS = ("openai", "batch", "replay")
"""Teachers beside whom a judge of their replies can be asked, in the same way."""
OPENAI_URL = "https://api.openai.com/v1"
_OURS = "is set by Laterna"
_BILLED = "asks for more than one answer, each of which is billed, and one is used"
_NO_TEXT = "asks for more than a text, which is billed besides and not read"
_CLIENTS = "belongs to a client, not to a request; write what is in it alone"
REFUSED_PARAMETERS: dict[str, str] = {
    **dict.fromkeys(("model", "messages", "prompt", "input"), _OURS),
    **dict.fromkeys(("stream", "stream_options", "background"), _OURS),
    **dict.fromkeys(("n", "best_of", "num_generations", "num_return_sequences"), _BILLED),
    **dict.fromkeys(("candidate_count", "candidateCount", "use_beam_search"), _BILLED),
    **dict.fromkeys(("models", "route", "fallbacks"), "asks other models than the one named"),
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call", "plugins"), _NO_TEXT),
    **dict.fromkeys(("modalities", "audio", "web_search_options"), _NO_TEXT),
    **dict.fromkeys(("extra_body", "extra_query", "extra_headers", "headers"), _CLIENTS),
}
"""Parameters that no request may be given, and what is said of them."""
_SECRET_NAME = re.compile(
    r"api_?key|passw|secret|credential|authori[sz]ation|bearer|(^|_)(auth|key|token)$",
    re.IGNORECASE,
)
_NO_SECRET = frozenset(("prompt_cache_key", "stop_token", "eos_token", "bos_token", "pad_token"))
_SECRET_VALUE = re.compile(r"\b(sk|hf|gsk|xai|ghp|AIza)[-_]?[A-Za-z0-9_-]{16,}|^Bearer ")


class Endpoint(Record):
    """The teacher behind an endpoint (or in this process): who it is and how fast it may be asked.

    The API key is never part of this: only the name of the variable that holds it.
    """

    model: str = ""
    """Model to ask. For `local`: a model folder or a GGUF file."""
    base_url: str = OPENAI_URL
    """Address of any OpenAI-compatible endpoint, without user, password or query."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key; the key itself is never stored or logged."""
    temperature: Amount | None = None
    """Sampling temperature; default: the endpoint's own."""
    top_p: Share | None = None
    """Share of probability that is sampled from; default: the endpoint's own."""
    max_tokens: Count | None = None
    """Longest reply in tokens; default: the endpoint's own."""
    parameters: tuple[str, ...] = ()
    """Further request parameters as NAME=JSON, such as `reasoning_effort="low"`."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 16
    """Maximum number of calls in flight."""
    requests_per_minute: Amount = 0
    """Maximum number of calls per minute. 0: no limit."""
    tokens_per_minute: Amount = 0
    """Maximum number of tokens per minute, read and written. 0: no limit."""
    timeout: Annotated[float, msgspec.Meta(ge=0.001)] = 120
    """Seconds to wait for a whole answer before the call is tried again."""
    tries: Count = 8
    """How often a call is tried before its record is dropped."""
    poll: Amount = 60
    """Seconds between queries for the state of a batch (`batch`)."""
    batch_size: Count = 10_000
    """Requests per batch (`batch`)."""


class Spending(Record):
    """What tokens cost, and how much may be spent."""

    prices: Path | None = None
    """TOML file of prices in US dollars per million tokens: `["MODEL"]`, `input = 2.5`,
    `output = 10.0`."""
    input_price: Amount | None = None
    """US dollars per million tokens read. Overrides `--prices`."""
    output_price: Amount | None = None
    """US dollars per million tokens written. Overrides `--prices`."""
    budget: Amount | None = None
    """Most US dollars to spend, counted over the whole ledger. No call starts beyond it."""


class Shard(Record):
    """One part of a run that is split over several: every `of`-th image from number `number`."""

    number: int = 1
    """From 1."""
    of: int = 1

    def holds(self, index: int) -> bool:
        """Tell whether the image at this place of the source is this shard's."""
        return index % self.of == self.number - 1


def read_shard(text: str) -> Shard:
    """Return the shard that `i/n` names, 1/4 to 4/4; raise LaternaError at anything else."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise LaternaError(f"shard {text!r}: write it as i/n with i from 1 to n, as in 1/4")
    return Shard(number=int(number), of=int(of))


def check_address(base_url: str) -> None:
    """Raise LaternaError for an address that is none, or that may hold a secret; never show it."""
    try:
        parts = urlsplit(base_url)
        good = not base_url or (parts.scheme in ("http", "https") and bool(parts.hostname))
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise LaternaError("--base-url: not an address; write it as https://HOST/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise LaternaError(
            "--base-url: leave out what stands before an @ and after a ? or #, which may be a "
            "secret; the key comes from the environment variable that --key-variable names"
        )


def read_key(variable: str) -> str:
    """Return the API key from the environment; raise LaternaError where there is none."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise LaternaError(
            f"no API key: set the environment variable {variable} "
            "(any word will do for a local endpoint that asks for none)"
        )
    return key


def read_parameters(texts: tuple[str, ...]) -> dict[str, msgspec.Raw]:
    """Return NAME=JSON parameters.

    Raises LaternaError for a value that is not JSON, for what would be billed beside the one
    answer that is used (`REFUSED_PARAMETERS`), and for a secret, which would be kept in the ledger.
    No message holds a value.
    """
    found: dict[str, msgspec.Raw] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if not name or name in found:
            raise LaternaError(f"parameter {name!r}: every name once, before the =")
        if name in REFUSED_PARAMETERS:
            raise LaternaError(f"parameter {name!r}: {REFUSED_PARAMETERS[name]}; leave it out")
        _require_no_secret(name, name, "")
        try:
            decoded = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise LaternaError(
                f'parameter {name!r}: write NAME=JSON, as in reasoning_effort="low" ({error})'
            ) from error
        _require_no_secret(name, "", decoded)
        found[name] = msgspec.Raw(msgspec.json.encode(decoded, order="deterministic"))
    return found


def _require_no_secret(parameter: str, name: str, value: object) -> None:
    """Raise LaternaError where a name, or any name or text in a value, is a secret's."""
    named = _SECRET_NAME.search(name.replace("-", "_")) and name not in _NO_SECRET
    if named or (isinstance(value, str) and _SECRET_VALUE.search(value)):
        raise LaternaError(
            f"parameter {parameter!r}: looks like a secret, which would be kept in the ledger; put "
            "the key into the environment variable that --key-variable names"
        )
    if isinstance(value, dict):
        for key, one in value.items():
            _require_no_secret(parameter, key, one)
    elif isinstance(value, list):
        for one in value:
            _require_no_secret(parameter, "", one)


class Job(Record):
    """Everything that decides which records are made; where they are written is not part of it."""

    annotations: Path
    captions: Path | None = None
    captionless: bool = False
    """Of a source with captions, keep images that have boxes and no caption too."""
    format: str = "auto"
    """Form of the annotations; `auto`: seen from what they hold."""
    view: View = "auto"
    """On which view of an image that EXIF turns its boxes were measured."""
    teacher: str = "scribe"
    kinds: tuple[Kind, ...] = INSTRUCTION_KINDS
    seed: Seed = 0
    conversation_boxes: bool = False
    prompts: Path | None = None
    """Folder of prompts to use instead of our own."""
    enrich: tuple[str, ...] = ()
    """Further channels of the proxy, measured from the pixels."""
    images: Path | None = None
    """Folder of the images, for the enrichments and for `view`; by default the one beside the
    annotations."""
    repair: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """How often to ask again after a rejected reply, with the reasons given."""
    judge: str = ""
    """Model that lists the claims of replies, so that boxes can decide them; empty: none."""
    endpoint: Endpoint = Endpoint()
    spending: Spending = Spending()
    ledger: Path | None = None
    shard: Shard = Shard()


def check_job(job: Job) -> None:
    """Raise LaternaError at settings that cannot be followed."""
    unknown = [kind for kind in job.kinds if kind not in KINDS]
    if unknown or not job.kinds:
        asked = f"unknown kind of record {unknown}" if unknown else "no kind of record asked for"
        raise LaternaError(f"{asked}; known are: {', '.join(KINDS)}")
    require_bounds(job, lambda place: place.rpartition(".")[2])
    if job.judge and job.teacher not in JUDGED_TEACHERS:
        raise LaternaError(
            f"a judge is asked as the teachers {', '.join(JUDGED_TEACHERS)} are, not as "
            f"{job.teacher!r}; leave --judge out, or judge a finished file: laterna check --judge"
        )
    check_address(job.endpoint.base_url)
    read_parameters(job.endpoint.parameters)
