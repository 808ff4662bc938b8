"""The command line: verbs, their flags, the console. The only package that prints."""

from innerpo.cli.verbs import entry, main

__all__ = ["entry", "main"]
