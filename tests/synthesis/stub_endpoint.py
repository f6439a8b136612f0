"""A stub of an OpenAI-compatible endpoint, in a process of its own: `python stub_endpoint.py …`.

A model named "odd MODE" is answered oddly (`odd_answer`). Otherwise it waits, fails a share of
calls with 429, 500, silence and cut connections, and answers the rest by a digest of what was
asked, so that the same request always gets the same reply. It speaks just enough of chat
completions and of the batch API. Prints its port; `GET /stats` counts. Bodies are told apart by
their SHA-256. Plain asyncio and no framework: it must be far faster than what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import random
import re
import time
from collections import Counter
from typing import Any

WORDS = (
    "calm quiet gentle open airy hushed mellow serene tranquil vivid lively bold subtle modest "
    "plain simple graceful elegant tender solemn wistful dreamy earnest candid patient steady "
    "gradual ordinary curious familiar distant timeless restful pleasant cheerful hopeful"
).split()


def claims(text: str) -> str:
    """What a judge writes of a text: that a horse is seen in some, and only supposed in others."""
    text = text.rpartition("Text:\n")[2]
    sentence = text.rpartition("Answer:\n")[2].strip()
    claim = {
        "sentence": sentence,
        "kind": "exists",
        "subject": "other",
        "object": "",
        "value": "horse",
        "mood": "seen" if len(sentence) % 2 else "inferred",
    }
    return json.dumps({"claims": [claim]})


def completion(request: dict[str, Any], bad: float) -> dict[str, Any]:
    """The reply to a request, the same each time; a share of first replies breaks the rules."""
    messages = request["messages"]
    rng = random.Random(hashlib.sha256(json.dumps(messages).encode()).digest())
    mood = " ".join(rng.choice(WORDS) for _ in range(24))
    text = f"The mood of it all is {mood}."
    if rng.random() < bad and "cannot be used" not in messages[-1]["content"]:
        text = f"The caption says that the mood is {mood}."
    if "Question:" in messages[2]["content"] if len(messages) > 2 else False:
        text = f"Question:\nHow does it feel to be there?\n===\nAnswer:\n{text}"
    if "response_format" in request:
        text = claims(messages[-1]["content"])
    read = sum(len(message["content"]) for message in messages) // 4
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "length" if request.get("max_tokens") == 1 else "stop",
            }
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": 40, "total_tokens": read + 40},
    }


USAGES: dict[str, Any] = {
    "usage-null": {"prompt_tokens": None, "completion_tokens": None},
    "usage-missing": None,
    "usage-float": {"prompt_tokens": 10.0, "completion_tokens": 39.5},
    "usage-text": {"prompt_tokens": "10", "completion_tokens": "40"},
    "usage-huge": {"prompt_tokens": 10**30, "completion_tokens": 2**63},
    "usage-negative": {"prompt_tokens": -5, "completion_tokens": -40},
    "usage-odd": [1, {"a": True}],
}


def odd_refusal(mode: str) -> tuple[int, bytes, dict[str, str]] | None:
    """What endpoints that refuse send; None for a mode that answers."""
    if mode == "masked-key":
        told = f"Incorrect API key provided: {KEY[:6]}****{KEY[-4:]}."
        return 401, json.dumps({"error": {"message": told}}).encode(), {}
    if mode == "redirect":
        return 307, b"", {"Location": "http://elsewhere.invalid/v1/chat/completions?token=hidden"}
    if mode == "parameter":
        return 400, b'{"error": {"message": "use max_completion_tokens"}}', {}
    if mode == "gateway":
        return 504, b"<html><body><h1>504 Gateway Time-out</h1></body></html>", {}
    return None


def odd_answer(mode: str, request: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
    """An answer as odd endpoints give it; the mode is the name of the model that is asked."""
    refusal = odd_refusal(mode)
    if refusal:
        return refusal
    whole = completion(request, 0.0)
    choice = whole["choices"][0]
    text = choice["message"]["content"]
    contents: dict[str, Any] = {
        "parts": [{"type": "thinking", "thinking": [{"type": "text", "text": "Well."}]},
                  {"type": "text", "text": text}],
        "think": f"<think>\nA dog.\n</think>\n\n{text}",
        "surrogate": text + " \ud83d",
        "nul": f"\u202b{text}\u0000",
        "number": 5,
    }  # fmt: skip
    bodies: dict[str, bytes] = {
        "html": b"<!DOCTYPE html><title>Sign in to the guest network</title><p>Hello",
        "empty": b"",
        "cut": json.dumps(whole).encode()[:-40],
        "deep": b"[" * 200_000,
        "binary": bytes(range(256)) * 4,
        "digits": b'{"choices": ' + b"9" * 5000 + b"}",
        "error-in-200": b'{"error": {"message": "Upstream is gone", "code": 503}}',
        "broken-gzip": b"\x1f\x8b\x08\x00 no gzip at all",
    }
    whole["usage"] = USAGES.get(mode, whole["usage"])
    choice["message"]["content"] = contents.get(mode, text)
    if mode == "refusal":
        choice["message"] |= {"content": None, "refusal": "This is not something I do."}
    if mode.startswith("finish-"):
        choice["finish_reason"] = json.loads(mode.removeprefix("finish-"))
    body = bodies.get(mode, json.dumps(whole).encode())
    if mode == "latin-1":
        choice["message"]["content"] = f"{text} Café."
        body = json.dumps(whole, ensure_ascii=False).encode("latin-1")
    if mode == "bom":
        body = b"\xef\xbb\xbf" + body
    if mode == "stream":
        said = [{"choices": [{"delta": {"content": part}}]} for part in re.split("(?= )", text)]
        body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in said)
        body += b"data: [DONE]\n\n"
    if mode in ("gzip", "bomb"):
        body = BOMB if mode == "bomb" else gzip.compress(body)
    packed = {"Content-Encoding": "gzip"} if mode in ("gzip", "bomb", "broken-gzip") else {}
    return 200, body, packed


BOMB = gzip.compress(bytes(16 * 2**20), 1) if __name__ == "__main__" else b""
KEY = "sk-never-to-be-stored"


class Stub:
    """The endpoint's state: what it was told to do, and what it counted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rng = random.Random(options.seed)
        self.paid: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.flying = self.most_flying = 0
        self.calls: list[tuple[float, float]] = []
        self.odd: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def stats(self) -> dict[str, Any]:
        return {
            "paid": sum(self.paid.values()),
            "distinct": len(self.paid),
            "twice": sum(1 for count in self.paid.values() if count > 1),
            "again": sorted(body for body, count in self.paid.items() if count > 1),
            "failed": self.failed,
            "most_flying": self.most_flying,
            "share": self.share(),
            "keys": sorted(self.keys),
            "batches": len(self.batches),
            "odd": self.odd,
        }

    def share(self) -> float:
        """Calls in flight on average, from the first answers until the last calls begin.

        Before that the client is still starting; after it, fewer are left than fit in flight.
        """
        begun = sorted(started for started, _ in self.calls)
        if len(begun) <= self.most_flying:
            return 0.0
        begin, end = begun[0] + self.options.delay[1], begun[-self.most_flying]
        busy = sum(max(0.0, min(ended, end) - max(started, begin)) for started, ended in self.calls)
        return busy / (end - begin) if end > begin else 0.0

    async def chat(self, body: bytes) -> tuple[int, bytes, dict[str, str]] | None:
        """Answer a completion; None cuts the connection in the middle of the answer."""
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        started = time.monotonic()
        try:
            options = self.options
            if self.rng.random() < options.fail:
                return await self.fail()
            await asyncio.sleep(self.rng.uniform(*options.delay))
            if options.always:
                return options.always, self.refusal(), {}
            answer = json.dumps(completion(json.loads(body), options.bad)).encode()
            self.paid[hashlib.sha256(body).hexdigest()] += 1
            return 200, answer, {}
        finally:
            self.flying -= 1
            self.calls.append((started, time.monotonic()))

    def refusal(self) -> bytes:
        """An error that repeats the key it was sent, as a careless endpoint might."""
        key = max(self.keys).removeprefix("Bearer ")
        return json.dumps({"error": {"message": f"no {key}", "code": "no"}}).encode()

    async def fail(self) -> tuple[int, bytes, dict[str, str]] | None:
        kind = self.rng.choice(("429", "500", "silence", "cut"))
        self.failed[kind] += 1
        if kind == "silence":
            await asyncio.sleep(self.options.silence)
            return None
        if kind == "cut":
            return None
        headers = {"Retry-After": str(self.options.retry_after)} if kind == "429" else {}
        return int(kind), b'{"error": {"message": "later"}}', headers

    def post_file(self, body: bytes) -> dict[str, Any]:
        # multipart: the content lies between the empty line of the part with a name and the rule
        boundary = body.split(b"\r\n", 1)[0]
        parts = [part for part in body.split(boundary) if b"filename=" in part]
        content = parts[0].split(b"\r\n\r\n", 1)[1].rstrip(b"\r\n")
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name, "object": "file", "bytes": len(content), "created_at": 0,
            "filename": "f", "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def post_batch(self, body: bytes) -> dict[str, Any]:
        asked = json.loads(body)
        name = f"batch-{len(self.batches)}"
        rows, errors = [], []
        for line in self.files[asked["input_file_id"]].splitlines():
            row = json.loads(line)
            if self.rng.random() < self.options.expire:
                errors.append({"custom_id": row["custom_id"], "error": {"code": "batch_expired"}})
                continue
            if self.rng.random() < self.options.row_faults:
                errors.append(self.fault(row["custom_id"]))
                continue
            sent = json.dumps(row["body"], separators=(",", ":")).encode()
            self.paid[hashlib.sha256(sent).hexdigest()] += 1
            said: Any = completion(row["body"], self.options.bad)
            if self.options.batch_model:
                _, content, _ = odd_answer(self.options.batch_model, row["body"])
                said = json.loads(content)
            answer = {"status_code": 200, "body": said}
            rows.append({"custom_id": row["custom_id"], "response": answer, "error": None})
        self.files[f"{name}-out"] = "\n".join(json.dumps(row) for row in rows).encode()
        if self.options.batch_file is not None:
            self.files[f"{name}-out"] = self.options.batch_file.encode()
        self.files[f"{name}-errors"] = "\n".join(json.dumps(row) for row in errors).encode()
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": asked["endpoint"], "created_at": 0,
            "input_file_id": asked["input_file_id"], "completion_window": "24h",
            "status": "in_progress", "metadata": asked.get("metadata"),
            "ready": time.monotonic() + self.options.batch_seconds,
        }  # fmt: skip
        return self.batches[name]

    def fault(self, name: str) -> dict[str, Any]:
        """A row of a batch that is refused, failed for now, or broken."""
        kind = self.rng.choice(("400", "500", "broken"))
        self.failed[kind] += 1
        response = {"status_code": 200 if kind == "broken" else int(kind), "body": {}}
        return {"custom_id": name, "response": response, "error": None}

    def get_batch(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        if time.monotonic() >= batch["ready"] and self.options.fail_batches:
            key = max(self.keys).removeprefix("Bearer ")
            told = {"data": [{"code": "no", "message": f"no tokens left for {key}"}]}
            batch.update(status="failed", errors=told)
        elif time.monotonic() >= batch["ready"] and self.options.cancel_batches:
            batch.update(status="cancelled")
        elif time.monotonic() >= batch["ready"]:
            done = {"output_file_id": f"{name}-out", "error_file_id": f"{name}-errors"}
            batch.update(done, status="expired" if self.files[f"{name}-errors"] else "completed")
        return batch

    def route(self, method: str, path: str, body: bytes) -> bytes:
        if path == "/stats":
            return json.dumps(self.stats()).encode()
        if method == "POST" and path == "/v1/files":
            return json.dumps(self.post_file(body)).encode()
        if method == "POST" and path == "/v1/batches":
            return json.dumps(self.post_batch(body)).encode()
        if match := re.fullmatch(r"/v1/files/(.+)/content", path):
            return self.files[match[1]]
        if match := re.fullmatch(r"/v1/batches/(.+)", path):
            return json.dumps(self.get_batch(match[1])).encode()
        listed = [self.get_batch(name) for name in self.batches]
        return json.dumps({"object": "list", "data": listed, "has_more": False}).encode()

    async def odd_chat(
        self, mode: str, body: bytes, writer: asyncio.StreamWriter
    ) -> tuple[int, bytes, dict[str, str]] | None:
        """Answer in the way that the model's name asks for; None cuts the connection."""
        self.odd[mode] += 1
        if mode in ("reset", "drip", "endless"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n{")
            while mode != "reset":
                writer.write(b" " * (1 if mode == "drip" else 2**16))
                await writer.drain()
                await asyncio.sleep(0.05 if mode == "drip" else 0)
            await writer.drain()
            writer.transport.abort()
            return None
        return odd_answer(mode, json.loads(body))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, path, _ = first.split(" ")
                named = (line.partition(":") for line in lines)
                headers = {name.lower(): value.strip() for name, _, value in named}
                self.keys.add(headers.get("authorization", ""))
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                model = json.loads(body)["model"] if path == "/v1/chat/completions" else ""
                if model.startswith("odd "):
                    answer = await self.odd_chat(model.removeprefix("odd "), body, writer)
                elif path.startswith("/v1/batches/") and self.options.batch_page:
                    answer = 200, b"<html><title>Gateway</title></html>", {}
                elif path == "/v1/chat/completions":
                    answer = await self.chat(body)
                elif self.options.always and path != "/stats":
                    answer = self.options.always, self.refusal(), {}
                elif path == "/v1/files" and self.options.busy > self.failed["busy"]:
                    self.failed["busy"] += 1
                    told = {"Retry-After": str(self.options.retry_after)}
                    answer = 429, b'{"error": {"message": "later"}}', told
                else:
                    answer = 200, self.route(method, path.partition("?")[0], body), {}
                if answer is None:
                    if not writer.is_closing():
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                        await writer.drain()
                    break
                status, content, extra = answer
                fields = {"Content-Type": "application/json", **extra}
                told = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                opening = f"HTTP/1.1 {status} X\r\n{told}Content-Length: {len(content)}\r\n\r\n"
                writer.write(opening.encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone: killed, or it closed its connection
        finally:
            writer.close()


async def main(options: argparse.Namespace) -> None:
    stub = Stub(options)
    server = await asyncio.start_server(
        stub.serve, "127.0.0.1", options.port, limit=1 << 24, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--delay", type=float, nargs=2, default=(0.0, 0.0), help="seconds")
    parser.add_argument("--fail", type=float, default=0.0, help="share of calls that fail")
    parser.add_argument("--bad", type=float, default=0.0, help="share of replies to be rejected")
    parser.add_argument("--expire", type=float, default=0.0, help="share of batch rows that expire")
    parser.add_argument("--row-faults", type=float, default=0.0, help="share of rows that fail")
    parser.add_argument("--fail-batches", action="store_true", help="batches fail as a whole")
    parser.add_argument("--cancel-batches", action="store_true", help="someone cancels them")
    parser.add_argument("--batch-page", action="store_true", help="HTML at a batch's status")
    parser.add_argument("--batch-file", help="what stands in the place of a batch's answers")
    parser.add_argument("--batch-model", default="", help="answer a batch's rows oddly, as this")
    parser.add_argument("--busy", type=int, default=0, help="files refused with 429 at first")
    parser.add_argument("--batch-seconds", type=float, default=0.0, help="until a batch is done")
    parser.add_argument("--silence", type=float, default=5.0, help="seconds of a call unanswered")
    parser.add_argument("--retry-after", type=float, default=0.1, help="seconds, sent with a 429")
    parser.add_argument("--always", type=int, default=0, help="answer with this status only")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(main(parser.parse_args()))
