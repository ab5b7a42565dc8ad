"""Print the options of fairseq-train that rebuild a checkpoint's transformer, one word a line.

scripts/wmt16_en_ru/prune.sh trains the same model with gates by them.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of a trained transformer")


def run(args: Namespace) -> None:
    from ..pruning.transformer_options import transformer_options

    print("\n".join(transformer_options(args.checkpoint)))
