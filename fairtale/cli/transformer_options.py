"""Print the options of fairseq-train for the shape of a checkpoint's transformer, one word a line.

scripts/wmt16_en_ru/prune.sh uses them to train the same model with gates.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..plugin import register


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="checkpoint of a trained transformer"
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    register()  # must precede the first import of fairseq, which logs and warns without it

    from ..pruning.transformer_options import transformer_options

    print("\n".join(transformer_options(args.checkpoint)))
