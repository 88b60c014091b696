"""The command line: verbs, exit codes, and errors in one form."""

from evomerge.cli.app import main

__all__ = ["main"]
