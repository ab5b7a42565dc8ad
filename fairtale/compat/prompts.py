"""Cure of ``fairseq-interactive`` ending in a traceback on input that is not UTF-8."""

import io
import sys


def cure_prompt_encoding() -> None:
    """Read standard input as UTF-8 and keep bytes that are not, so that a task can name their line.

    Python decodes strictly, and in the encoding of the locale, so the command ends somewhere
    inside fairseq. Needless once fairseq decodes its prompts itself.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
