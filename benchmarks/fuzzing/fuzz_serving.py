"""Fuzzed requests against a real `laterna serve` on loopback: no 5xx, no traceback, still alive.

    python benchmarks/fuzzing/fuzz_serving.py [MODEL] [--requests 10000] [--seed 0] [--out FILE]

Without MODEL the untaught nano assistant is served. Requests are raw bytes over sockets, so that
bodies, images, parameters, headers and the connection itself can be wrong; each is made from the
seed and its number. Prints how many of each kind ended how, and exits with 1 on a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fuzz_requests import CHAT, KEY, Attack, asked, attacks, http, written

PATIENCE = 60.0
"""Seconds after which a request that got no answer is a finding."""


class Outcome(NamedTuple):
    """How a request ended: an HTTP status, `cut` or `closed`; and what is wrong with that."""

    kind: str
    status: str
    fault: str = ""


class Server(NamedTuple):
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def send(self, attack: Attack) -> Outcome:
        """Send a request and judge its answer."""
        try:
            answer = self._answer(attack)
        except TimeoutError:
            return Outcome(attack.kind, "silent", f"no answer within {PATIENCE:.0f} s")
        except OSError:
            answer = b""
        if attack.read is not None:
            return Outcome(attack.kind, "cut")
        if not answer:
            fault = "" if attack.broken else "closed without an answer"
            return Outcome(attack.kind, "closed", fault)
        return judged(attack, answer)

    def _answer(self, attack: Attack) -> bytes:
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(attack.raw)
            if attack.broken:
                connection.shutdown(socket.SHUT_WR)
            while attack.read is None or len(answer) < attack.read:
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
        return answer

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a plain request."""
        head, _, body = self._answer(Attack("", http("GET", path))).partition(b"\r\n\r\n")
        return int(head.split()[1]), body


def judged(attack: Attack, answer: bytes) -> Outcome:
    """Hold an answer against what clients rely on."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split()[1].decode()
    fault = ""
    if status >= "500":
        fault = f"status {status}: {body[:300]!r}"
    elif b"application/json" in head and status >= "400" and not attack.raw.startswith(b"HEAD"):
        try:
            error = json.loads(body)["error"]
            fault = "" if {"message", "type", "param", "code"} == set(error) else "error's form"
        except (ValueError, KeyError, TypeError):
            fault = f"error's form: {body[:300]!r}"
    elif b"text/event-stream" in head and b"data: [DONE]" not in body:
        fault = f"a stream without [DONE]: {body[-300:]!r}"
    return Outcome(attack.kind, status, fault)


@contextmanager
def serving(model: str, folder: Path, engine: str = "torch") -> Iterator[Server]:
    """Run a server on a free port of loopback until the end."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    log = folder / "server.log"
    command = [sys.executable, "-m", "laterna", "serve", model, "--name", "fuzzed", "--port",
               str(port), "--engine", engine]  # fmt: skip
    if engine == "torch":
        command += ["--device", "cpu", "--max-concurrency", "8"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "LATERNA_API_KEY": KEY})
    try:
        server = Server(port, process, log)
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.wait(300)  # a busy machine takes its time


def _wait(server: Server) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until and server.process.poll() is None:
        try:
            if server.get("/health")[0] == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"the server did not start: {server.log.read_text()[-2000:]}")


def fuzz(server: Server, number: int, seed: int, clients: int = 8) -> dict[str, Any]:
    """Send fuzzed requests and return what was seen; `faults` must be empty."""
    right = Attack("right", http("POST", CHAT, written(asked(random.Random(0), temperature=0))))
    before = server.send(right)
    with ThreadPoolExecutor(clients) as pool:
        seen = list(pool.map(server.send, attacks(number, seed)))
    faults = [
        f"{one.kind}: {one.fault}" for one in (before, *seen, server.send(right)) if one.fault
    ]
    if server.process.poll() is not None:
        faults.append("the server has ended")
    else:
        faults += [f"{path}: status {status}" for path in ("/health", "/metrics", "/v1/models")
                   if (status := server.get(path)[0]) not in (200, 404)]  # fmt: skip
        figures = server.get("/metrics")[1].decode().splitlines()
        held = [line for line in figures if line.startswith("laterna:num_requests_")]
        faults += [f"left over: {line}" for line in held if not line.endswith(" 0.0")]
    log = server.log.read_text(errors="replace")
    if tracebacks := log.count("Traceback"):
        faults.append(f"{tracebacks} tracebacks in the log")
    counts = Counter((one.kind, one.status) for one in seen)
    kinds = sorted({one.kind for one in seen})
    return {
        "requests": number,
        "seed": seed,
        "faults": faults,
        "outcomes": {
            kind: {status: n for (k, status), n in sorted(counts.items()) if k == kind}
            for kind in kinds
        },
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="torch", choices=("torch", "llama.cpp"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = options.model
        if not model:
            from laterna.inference.assistant import Assistant
            from laterna.model.build import build_from_recipe
            from laterna.recipe import load_recipe

            model = str(Assistant(build_from_recipe(load_recipe("nano"))).save(Path(name) / "nano"))
        begun = time.monotonic()
        with serving(model, Path(name), options.engine) as server:
            found = fuzz(server, options.requests, options.seed)
            found["log_tail"] = server.log.read_text(errors="replace")[-3000:] * bool(
                found["faults"]
            )
    found["seconds"] = round(time.monotonic() - begun, 1)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
