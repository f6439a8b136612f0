"""Measures synthesis against a stub of an OpenAI endpoint in a process of its own.

    python benchmarks/synthesis.py capacity      share of the endpoint's capacity at 256 in flight
    python benchmarks/synthesis.py many          158,000 requests: rate, memory, none lost or twice
    python benchmarks/synthesis.py failures      5 % of calls fail: the same, and what was retried
    … --images N --out FILE                    smaller, and where the figures are written

Every run reports milliseconds of our own CPU a request, the ledger's thread, parsing and checks
included. The file of figures is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

STUB = Path(__file__).resolve().parents[1] / "tests" / "synthesis" / "stub_endpoint.py"
CATEGORIES = ("dog", "cat", "person", "car", "bench", "kite", "cup", "book", "chair", "bird")
KINDS = ("conversation", "detail", "reasoning")
SCENARIOS: dict[str, dict[str, Any]] = {
    "capacity": {"images": 4_000, "stub": ("--delay", "1", "3"), "timeout": 60.0},
    "many": {"images": 52_667, "stub": ("--bad", "0.02"), "timeout": 60.0},
    "failures": {
        "images": 4_000,
        "stub": ("--delay", "1", "3", "--fail", "0.05", "--silence", "10"),
        "timeout": 10.0,
    },
}
CONCURRENCY = 256


def write_contexts(path: Path, images: int) -> None:
    """Write images as a COCO-like source has them: five captions, seven boxes, all different."""
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(images):
            names = rng.sample(CATEGORIES, 5)
            row = {
                "id": number,
                "image": f"{number:012d}.jpg",
                "captions": [
                    f"A {one} stands near a {other} on day {rng.randrange(10_000)} of the year."
                    for one, other in zip(names, reversed(names), strict=True)
                ],
                "instances": [_instance(rng) for _ in range(7)],
            }
            file.write(json.dumps(row) + "\n")


def _instance(rng: random.Random) -> dict[str, Any]:
    x, y = rng.random() * 0.7, rng.random() * 0.7
    width, height = 0.05 + rng.random() * 0.25, 0.05 + rng.random() * 0.25
    return {"category": rng.choice(CATEGORIES), "bbox": [x, y, x + width, y + height]}


class Memory(threading.Thread):
    """Watches the resident memory of this process, in MB, a reading a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.readings: list[float] = []
        self.ended = threading.Event()

    def run(self) -> None:
        """Read until told to end."""
        page = os.sysconf("SC_PAGE_SIZE") / 1e6
        while not self.ended.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.readings.append(pages * page)

    def figures(self) -> dict[str, float]:
        """Return the peak, and how much the second half grew over its own beginning."""
        half = self.readings[len(self.readings) // 2 :]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        growth = 100 * (max(half) / half[0] - 1) if half else 0.0
        return {"peak_mb": round(peak, 1), "second_half_growth_percent": round(growth, 1)}


def start_stub(options: tuple[str, ...]) -> tuple[subprocess.Popen[str], str]:
    """Start the stub; return its process and its address."""
    stub = subprocess.Popen(
        [sys.executable, str(STUB), *options], stdout=subprocess.PIPE, text=True
    )
    assert stub.stdout is not None
    return stub, f"http://127.0.0.1:{stub.stdout.readline().strip()}"


def measure(name: str, images: int) -> dict[str, Any]:
    """Run one scenario and return its figures."""
    from laterna.synthesis.run import synthesize
    from laterna.synthesis.settings import Endpoint

    scenario = SCENARIOS[name]
    os.environ.setdefault("OPENAI_API_KEY", "none-needed")
    stub, address = start_stub(scenario["stub"])
    memory = Memory()
    try:
        with tempfile.TemporaryDirectory() as folder:
            contexts = Path(folder) / "contexts.jsonl"
            write_contexts(contexts, images)
            endpoint = Endpoint(
                model="stub",
                base_url=f"{address}/v1",
                concurrency=CONCURRENCY,
                timeout=scenario["timeout"],
            )
            memory.start()
            wall, cpu = time.monotonic(), time.process_time()
            summary = synthesize(
                contexts, Path(folder) / "out.json", teacher="openai", endpoint=endpoint, repair=1
            )
            wall, cpu = time.monotonic() - wall, time.process_time() - cpu
            memory.ended.set()
            with urllib.request.urlopen(f"{address}/stats") as answer:
                stats = json.load(answer)
    finally:
        stub.kill()
    calls = summary.calls
    assert calls is not None
    return {
        "scenario": name,
        "records": sum(summary.records.values()),
        "rejected": summary.rejected,
        "asked": calls.asked,
        "retries": calls.retries,
        "left_out": len(summary.problems),
        "paid": stats["paid"],
        "paid_twice": stats["twice"],
        "lost": len(KINDS) * images + sum(summary.rejected.values()) - calls.asked,
        "seconds": round(wall, 1),
        "requests_a_second": round(calls.asked / wall, 1),
        "cpu_ms_a_request": round(1000 * cpu / calls.asked, 2),
        # Calls in flight on average, of the 256 that the endpoint would serve at once.
        "share_of_capacity": round(stats["share"] / CONCURRENCY, 4),
        **memory.figures(),
    }


def main() -> None:
    """Measure what the command line names, print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    images = options.images or SCENARIOS[options.scenario]["images"]
    figures = measure(options.scenario, images)
    figures["machine"] = (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}"
    )
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
