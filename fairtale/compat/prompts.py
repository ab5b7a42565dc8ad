"""Work around ``fairseq-interactive``, which ends in a traceback on input that is not UTF-8."""

import io
import sys


def cure_prompt_encoding() -> None:
    """Read standard input as UTF-8, and keep invalid bytes as surrogates.

    A task can then report the number of the invalid line. By default Python decodes strictly and in
    the encoding of the locale, so the error would arise inside fairseq. Remove this work-around
    once fairseq decodes its prompts itself.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
