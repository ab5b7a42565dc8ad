"""Decoding options of the verbs that generate text, with the names and meanings of fairseq's."""

import argparse
import dataclasses

from ..generation.options import (
    DEFAULT_MAX_LEN,
    DEFAULT_TOPK,
    DecodingOptions,
    check_sampling,
)
from .argument_types import positive_int


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for loading the model."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with the model's dict.txt and tokenizer (default: the data of its training)",
    )
    parser.add_argument(
        "--lora-adapter",
        metavar="DIR",
        help="folder with an adapter of this model, as peft and fairtale gpt2 adapter save it",
    )
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")


def add_decoding_options(
    parser: argparse.ArgumentParser,
    text: str,
    no_repeat_ngram_size: int,
    seed: int | None = None,
) -> None:
    """Add decoding options; :func:`decoding_options` reads them.

    Args:
        parser: parser of a verb.
        text: what is generated, such as "reply", for the help texts.
        no_repeat_ngram_size: default of this option.
        seed: default of this option.
    """
    parser.add_argument(
        "--sampling-topk",
        type=int,
        metavar="K",
        help="sample from the K most probable tokens; 1 decodes greedily, -1 sets no limit "
        f"(default: {DEFAULT_TOPK}, or -1 with --sampling-topp)",
    )
    parser.add_argument(
        "--sampling-topp",
        type=float,
        default=-1.0,
        metavar="P",
        help="sample from the most probable tokens whose total probability is P; -1 sets no "
        "limit (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="divisor of the logits (default: %(default)s)",
    )
    parser.add_argument(
        "--max-len-b",
        type=positive_int,
        metavar="N",
        help=f"maximum number of tokens of a {text} (default: {DEFAULT_MAX_LEN}, or the model's "
        "maximum if that is shorter)",
    )
    parser.add_argument(
        "--min-len",
        type=int,
        default=1,
        metavar="N",
        help=f"minimum number of tokens of a {text} (default: %(default)s)",
    )
    parser.add_argument(
        "--no-repeat-ngram-size",
        type=int,
        default=no_repeat_ngram_size,
        metavar="N",
        help=f"do not repeat an N-gram within a {text}; 0 disables this (default: %(default)s)",
    )
    parser.add_argument(
        "--block-context-ngram",
        type=int,
        default=0,
        metavar="N",
        help="do not repeat an N-gram of the context; 0 disables this (default: %(default)s)",
    )
    default = "a different one each time" if seed is None else "%(default)s"
    parser.add_argument(
        "--seed",
        type=int,
        default=seed,
        help=f"random seed of sampling; the same seed gives the same text (default: {default})",
    )


def decoding_options(args: argparse.Namespace) -> DecodingOptions:
    """Return the decoding options of the command line, after checking that they are consistent.

    Raises:
        UserError: an option is out of range or would have no effect.
    """
    given = vars(args)
    check_sampling(given)
    return DecodingOptions(**{f.name: given[f.name] for f in dataclasses.fields(DecodingOptions)})
