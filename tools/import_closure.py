"""What a Python file imports, and what that imports: read from the sources, nothing is run.

    python tools/import_closure.py src/laterna/commands/train.py

lists the files of ours that one would need. Imports inside functions count, for they are done
when the functions run; those under `if TYPE_CHECKING` do not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ROOTS = (ROOT / "src", ROOT / "tools", ROOT / "benchmarks")
"""Folders that modules of ours are imported from."""


class Closure(NamedTuple):
    """All that importing a file, and running every function of it, reads."""

    files: frozenset[Path]
    """Of ours, the file itself included."""
    foreign: frozenset[str]
    """First names of other modules, such as `torch`."""


def closure(start: Path) -> Closure:
    """Return what a file needs, directly or not."""
    files: set[Path] = set()
    foreign: set[str] = set()
    stack = [start.resolve()]
    while stack:
        path = stack.pop()
        if path in files:
            continue
        files.add(path)
        for name in imports(path):
            ours = list(_files_of(name))
            stack += ours
            if not ours:
                foreign.add(name.partition(".")[0])
    return Closure(frozenset(files), frozenset(foreign))


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the modules that a file's import statements name, relative ones left out."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module
            if next(_files_of(child.module), None):
                # of `from a import b`, b may be a module
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Call) and ast.unparse(child.func) == "late":
            # the module that `laterna.choices.late` imports when its function is called
            yield ast.literal_eval(child.args[0]).partition(":")[0]
        else:
            yield from _imports(child)


def _files_of(module: str) -> Iterator[Path]:
    """Yield the files that importing a module of ours runs: its own and its packages'."""
    parts = module.split(".")
    for root in ROOTS:
        for length in range(1, len(parts) + 1):
            path = root.joinpath(*parts[:length])
            if (path / "__init__.py").is_file():
                yield path / "__init__.py"
            elif path.with_suffix(".py").is_file():
                yield path.with_suffix(".py")


if __name__ == "__main__":
    needed = sorted(closure(Path(sys.argv[1])).files)
    for one in needed:
        print(one.relative_to(ROOT))
    print(f"{len(needed)} files")
