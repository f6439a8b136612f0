"""Hold files to 400 lines and functions to 50, docstrings included: `make lint` fails past that."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "benchmarks", "tools")
FILE_LINES = 400
FUNCTION_LINES = 50


def python_files(root: Path) -> list[Path]:
    """Return every Python file that the limits hold for, sorted."""
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def too_long(source: str) -> Iterator[str]:
    """Yield a sentence for the file if it is too long, and one for each function that is.

    A function runs from its `def` to its last line; decorators are not counted.
    """
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield f"1: the file has {lines} lines, the limit is {FILE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                limit = f"the limit is {FUNCTION_LINES}"
                yield f"{node.lineno}: {node.name} has {length} lines, {limit}"


def check(root: Path) -> list[str]:
    """Return one line `file:line: what is too long` for each breach under `root`."""
    return [
        f"{path.relative_to(root)}:{breach}"
        for path in python_files(root)
        for breach in too_long(path.read_text(encoding="utf-8"))
    ]


if __name__ == "__main__":
    breaches = check(ROOT)
    for line in breaches:
        print(line)
    sys.exit(bool(breaches))
