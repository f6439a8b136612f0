"""Subcommands of the command line, one file each; `laterna.cli` lists them."""
