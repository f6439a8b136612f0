"""Subcommands of the command line, one file each.

A command is a struct of arguments, whose docstrings are its help, with a `run` that hands them to
the step and returns the closing line: what was made and where. What a step needs is imported
when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable

from laterna.commands.base import Command
from laterna.commands.chat import Chat, Explain
from laterna.commands.check import Check
from laterna.commands.evaluate import Compare, Evaluate
from laterna.commands.exchange import Export, Import
from laterna.commands.inspect import Inspect
from laterna.commands.lab import Lab
from laterna.commands.plan import Plan, TunedPlan
from laterna.commands.prepare import Prepare
from laterna.commands.report import Report
from laterna.commands.serve import Serve
from laterna.commands.synthesize import Synthesize
from laterna.commands.train import Train, TunedTrain
from laterna.commands.world import Demo, World

COMMANDS: dict[str, Callable[..., Command]] = {
    "demo": Demo,
    "world": World,
    "synthesize": Synthesize,
    "check": Check,
    "inspect": Inspect,
    "prepare": Prepare,
    "plan": Plan,
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "lab": Lab,
    "report": Report,
    "chat": Chat,
    "explain": Explain,
    "serve": Serve,
    "import": Import,
    "export": Export,
}
TUNED: dict[str, type[TunedPlan] | type[TunedTrain]] = {"plan": TunedPlan, "train": TunedTrain}
"""Commands whose recipe's settings may be changed behind it."""
