"""`laterna serve` beside `transformers serve`, each with the same model, over the same API.

    python benchmarks/server/beside_transformers.py MODEL [--clients 16] [--tokens 32] [--rounds 3]
        [--out FILE]

MODEL is exported to a Hugging Face folder for the other side. Each server runs in a process of its
own on one thread, in turn in every round, and answers as many questions at once as there are
clients, each about an image of its own. Seconds are the server process's CPU seconds between the
first request and the last answer, so that a busy machine does not count; answers may end early on
both sides, so what is compared is answered tokens a second. Warmed by a round that does not count.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import torch
import transformers
from PIL import Image

QUESTIONS = (
    "Describe the image.",
    "What is on the table? Describe it in detail.",
    "Describe all objects and where they are.",
    "Tell me what you see, in several sentences.",
)


class Side(NamedTuple):
    """A running server."""

    url: str
    model: str
    process: subprocess.Popen[bytes]

    def seconds(self) -> float:
        """Return the CPU seconds that it has taken (Linux)."""
        after = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(words: Sequence[str], model: str) -> Iterator[Side]:
    """Run a server until the end."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [*words, "--port", str(port)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
            time.sleep(0.2)
        yield Side(f"http://127.0.0.1:{port}/v1", model, process)
    finally:
        process.terminate()
        process.wait(300)


def ask(side: Side, number: int, tokens: int) -> tuple[int, str]:
    """Ask about an image of its own, greedily; return the answer's tokens and text."""
    noise = random.Random(number).randbytes(64 * 64 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (64, 64), noise).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]},
    ]
    body = {
        "model": side.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    answer = httpx2.post(f"{side.url}/chat/completions", json=body, timeout=600).json()
    text = answer["choices"][0]["message"]["content"]
    return answer["usage"]["completion_tokens"], text.strip()


def round_of(side: Side, start: int, clients: int, tokens: int) -> tuple[float, int, list[str]]:
    """Return the server's CPU seconds for a question of each client, the tokens and the answers."""
    before = side.seconds()
    with ThreadPoolExecutor(clients) as threads:
        numbers = range(start, start + clients)
        given = list(threads.map(lambda number: ask(side, number, tokens), numbers))
    return side.seconds() - before, sum(count for count, _ in given), [text for _, text in given]


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return tokens a CPU second of both sides, and their ratio."""
    program = str(Path(sys.executable).parent / "transformers")
    ours = [sys.executable, "-m", "laterna", "serve", given.model, "--threads", "1"]
    theirs = [program, "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
    rates: list[tuple[float, float]] = []
    same = asked = 0
    with server(ours, Path(given.model).name) as one, server(theirs, str(folder)) as other:
        for number in range(given.rounds + 1):
            found = [
                round_of(side, 100 * number, given.clients, given.tokens) for side in (one, other)
            ]
            if number:
                rates.append((found[0][1] / found[0][0], found[1][1] / found[1][0]))
                asked += given.clients
                same += sum(a == b for a, b in zip(found[0][2], found[1][2], strict=True))
    return {
        "clients": given.clients,
        "tokens": given.tokens,
        "laterna_tokens_a_second": round(statistics.median(a for a, _ in rates), 1),
        "transformers_tokens_a_second": round(statistics.median(b for _, b in rates), 1),
        "ratio": round(statistics.median(a / b for a, b in rates), 2),
        "ratios": [round(a / b, 2) for a, b in rates],
        "answers": asked,
        "answers_that_are_equal": same,
    }


def main() -> None:
    """Export the model, run both servers, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    from laterna.model.exporters import export
    from laterna.model.importers import read_model

    with tempfile.TemporaryDirectory() as place:
        folder = export(read_model(given.model), Path(place) / "exported", "hf", "f32")
        figures = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 2),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "model": Path(given.model).name,
            "seconds": "CPU seconds of the server process, one thread",
            **measure(given, folder),
        }
    text = json.dumps(figures, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
