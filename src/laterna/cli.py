"""The command line: parses it, runs the command, and prints its closing line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import tyro
from tyro.conf import DisallowNone, PositionalMetavarFromFieldName

from laterna.commands import COMMANDS, TUNED
from laterna.commands.base import Command, require_command_bounds, require_places
from laterna.errors import told
from laterna.recipe import load_recipe

DESCRIPTION = "From boxes and captions to your own visual assistant, one subcommand a step."


def parse(args: Sequence[str]) -> Command:
    """Read a command line; help and wrong usage print and raise SystemExit.

    `train RECIPE` and `plan RECIPE` are read over the recipe's own values, so that each is a
    default to override.
    """
    config = (PositionalMetavarFromFieldName, DisallowNone)
    command: Command
    if len(args) > 1 and args[0] in TUNED and not args[1].startswith("-"):
        tuned, source = TUNED[args[0]], args[1]
        command = tyro.cli(
            tuned,
            prog=f"laterna {args[0]} {source}",
            default=tuned(recipe=source, settings=load_recipe(source)),
            args=args[2:],
            config=config,
        )
    else:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="laterna", description=DESCRIPTION, args=args, config=config
        )
    return command


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status: 0, 2 for a user's error, 130 or 141."""
    # Read by torch when it is first imported: its waiting threads spin for a short time and then
    # sleep. Long spinning is far slower on a busy machine, and none on an idle one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return told(lambda: _run(sys.argv[1:] if args is None else args))
    except BrokenPipeError:
        # The reader of our output has gone; nothing more may be written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        print("\nlaterna: interrupted", file=sys.stderr)
        return 130


def _run(args: Sequence[str]) -> None:
    try:
        command = parse(args)
        require_command_bounds(command)
        require_places(command)
        line = command.run()
        if line:
            print(line)
    finally:
        sys.stdout.flush()
