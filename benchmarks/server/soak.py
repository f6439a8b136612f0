"""A server under clients that come, go and break off, for minutes.

    python benchmarks/server/soak.py MODEL [--minutes 10] [--clients 16] [--tokens 64] [--out FILE]

`laterna serve MODEL` runs in a process of its own. Each client asks one streamed question after
another about one of 400 images, and breaks off every fourth answer in its middle. Counted are
errors (a status other than 200, a stream with an error or without its end), and in the end rows
that are not free. The server's resident memory is read every second; its growth is that of the
median of the last tenth over the median of the tenth after the first fifth.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

QUESTIONS = (
    "What is on the table?",
    "How many apples are there in the image?",
    "Describe the image in detail, please.",
    "Is there a banana to the left of the striped cup? Answer with a whole sentence.",
)


def data_url(number: int) -> str:
    """Return one of many images, as a client sends it."""
    noise = random.Random(number).randbytes(96 * 96 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (96, 96), noise).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def ask(client: httpx2.Client, number: int, tokens: int) -> str:
    """Ask one question; return how it ended: whole, broken off, or what was wrong."""
    image = {"type": "image_url", "image_url": {"url": data_url(number % 400)}}
    text = {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]}
    body = {
        "messages": [{"role": "user", "content": [image, text]}],
        "max_tokens": tokens,
        "temperature": 1.5,
        "stream": True,
    }
    chunks = 0
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            return f"status {answer.status_code}"
        for line in answer.iter_lines():
            chunks += line.startswith("data: {")
            if line.startswith('data: {"error"'):
                return "error in the stream"
            if number % 4 == 0 and chunks == 3:
                return "broken off"
            if line == "data: [DONE]":
                return "whole"
    return "no end"


def client(url: str, first: int, until: float, tokens: int, ends: Counter[str]) -> None:
    """Ask until the time is over."""
    number = first
    with httpx2.Client(base_url=url, timeout=300) as asking:
        while time.monotonic() < until:
            try:
                ends[ask(asking, number, tokens)] += 1
            except httpx2.HTTPError as error:
                ends[type(error).__name__] += 1
            number += 37


def memory(process: int) -> float:
    """Return a process's resident memory in MiB (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def unfinished(url: str) -> dict[str, float]:
    """Return how many requests run and wait, as the server's own figures say."""
    page = httpx2.get(f"{url}/metrics").text
    names = ("num_requests_running", "num_requests_waiting")
    return {name: float(re.findall(rf"^\S*{name} (\S+)$", page, re.M)[0]) for name in names}


def growth(read: list[float]) -> float:
    """Return how much memory grew over the last four fifths, as a share."""
    tenth = max(len(read) // 10, 1)
    early, late = read[2 * tenth : 3 * tenth], read[-tenth:]
    return statistics.median(late) / statistics.median(early) - 1


def soak(url: str, process: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run the clients and return what was seen."""
    ends: Counter[str] = Counter()
    begun = time.monotonic()
    until = begun + 60 * given.minutes
    threads = [
        threading.Thread(target=client, args=(url, 1000 * n, until, given.tokens, ends))
        for n in range(given.clients)
    ]
    for thread in threads:
        thread.start()
    read = []
    while any(thread.is_alive() for thread in threads):
        read.append(memory(process))
        time.sleep(1)
    time.sleep(2)  # the last that broke off are seen to have gone
    whole, broken = ends["whole"], ends["broken off"]
    return {
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "clients": given.clients,
        "answers": whole,
        "broken_off": broken,
        "errors": sum(ends.values()) - whole - broken,
        "error_kinds": {name: n for name, n in ends.items() if name not in ("whole", "broken off")},
        "left_after": unfinished(url),
        "memory_mib": {"first": round(read[0]), "last": round(read[-1]), "most": round(max(read))},
        "growth_over_the_last_80_percent": round(growth(read), 4),
        "health_after": httpx2.get(f"{url}/health").status_code,
    }


def main() -> None:
    """Start a server, soak it, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "laterna", "serve", given.model]
    server = subprocess.Popen([*command, "--port", str(port), "--threads", "1"])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx2.get(f"{url}/health")
                break
            except httpx2.HTTPError:
                time.sleep(0.2)
        found = soak(url, server.pid, given)
    finally:
        server.terminate()
        ended = server.wait(300)  # a busy machine takes its time
    figures = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "model": Path(given.model).name,
        **found,
        "server_ended_with": ended,
    }
    text = json.dumps(figures, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
