"""Prepare works for training: clean, split by work, encode as byte-level BPE, binarise.

--tokenizer takes the tokenizer and the dictionary of a model, as `fairtale gpt2 import` writes
them; without it, a tokenizer is trained on the training works. One work becomes one row of tokens,
with its line breaks. Train with --task story_lm --sample-break-mode split, which cuts the rows into
blocks.

The folder --data-bin appears complete or not at all. A second run with the same settings does
nothing.
"""

import argparse
import json
import os
import shutil

from ..data.corpus.byte_level_files import TOKENIZER_JSON
from ..data.corpus.whole_folder import describe_source, is_ready
from ..data.dialog.line_format import MARKS
from ..data.documents.mongo_config import PREFIX
from ..data.documents.sources import describe_collections
from ..errors import UserError
from . import prepare
from .argument_types import positive_int
from .model_tokenizer import DICTIONARY, checksums, find_model

_DEFAULT_VOCAB_SIZE = "8192"
_DEFAULT_SHARE = "0.05"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--source",
        action="extend",
        nargs="+",
        default=[],
        metavar="PATH",
        help="folder of texts with one work a file, JSON lines, a SQLite database, or "
        "mongo:CONFIG.json; may be repeated",
    )
    prepare.add_shared_arguments(
        parser,
        os.path.join("data-bin", "documents"),
        None,
        "size of the vocabulary to train, including 256 bytes and four special symbols (default: "
        f"{_DEFAULT_VOCAB_SIZE}); not with --tokenizer",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="folder of a model with tokenizer.json and dict.txt, or its tokenizer.json (default: "
        "train a tokenizer)",
    )
    parser.add_argument(
        "--tokenizer-sample",
        type=prepare.as_typed(positive_int),
        metavar="N",
        help="train the tokenizer on N works, evenly spread over all (default: 1000000)",
    )
    parser.add_argument(
        "--dialog-marks",
        action="store_true",
        help=f"the tokenizer that is trained gets {' and '.join(MARKS)}, which a model needs to be "
        "fine-tuned on conversations",
    )
    prepare.add_split_arguments(parser, _DEFAULT_SHARE, "0")
    for subset in ("valid", "test"):
        parser.add_argument(
            f"--{subset}-works",
            action="extend",
            nargs="+",
            default=[],
            metavar="NAME",
            help=f"ids of works for the {subset} set, or patterns of ids",
        )
    columns = [
        f"--{name}-{kind}" for name in ("text", "id", "work") for kind in ("field", "column")
    ]
    valued = (
        "--table",
        *columns,
        "--markup",
        "--keep",
        "--clean",
        "--max-chars",
        "--mongo-wait",
        "--max-loss",
    )

    prepare.pass_on(parser, "documents", ("--strict",), valued)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    if not args.source:
        raise UserError("--source is missing: name a folder of texts, JSON lines, or a database")
    prepare.check_sources([s for s in args.source if not s.startswith(PREFIX)])
    if args.tokenizer and args.vocab_size:
        raise UserError("--vocab-size: the tokenizer of --tokenizer has its size; give one of them")
    for option in ("tokenizer_sample", "dialog_marks"):
        if args.tokenizer and getattr(args, option):
            name = f"--{option.replace('_', '-')}"
            raise UserError(f"{name}: the tokenizer of --tokenizer is trained; give one of them")
    learning = _learning_words(args)
    model = find_model(args.tokenizer) if args.tokenizer else None
    vocab_size = args.vocab_size or _DEFAULT_VOCAB_SIZE
    split = _split_words(args)
    settings = [
        f"vocab-size {vocab_size}" if model is None else f"tokenizer {checksums(*model)}",
        f"split {' '.join(split)}",
        *([f"learning {' '.join(learning)}"] if learning else []),
        f"options {' '.join(args.options)}",
        *(f"source {_describe(source)}" for source in args.source),
    ]
    if is_ready(args.data_bin, settings):
        return
    with prepare.new_data(args.data_bin, settings) as work:
        prepare.say("1/4 cleaning and splitting")
        prepare.call("documents", *args.source, "--output", work.text, *split, *args.options)
        _refuse_conversations(os.path.join(work.text, "train.jsonl"))
        if model is None:
            model = _train_tokenizer(work, vocab_size, learning)
        else:
            prepare.say("2/4 the tokenizer is %s", model[0])
        _binarise(work, *model, args.workers)
        _keep_texts(work)


def _describe(source: str) -> str:
    return describe_collections(source) if source.startswith(PREFIX) else describe_source(source)


def _refuse_conversations(path: str) -> None:
    with open(path, encoding="utf-8") as stream:
        if "q" in json.loads(stream.readline()):
            raise UserError(
                "--source: it holds questions and answers, not works; encode them with the "
                "tokenizer of a model: fairtale documents SOURCE --tokenizer DIR --output DIR"
            )


def _split_words(args: argparse.Namespace) -> list[str]:
    words = ["--seed", args.seed]
    for subset in ("valid", "test"):
        share, works = getattr(args, subset), getattr(args, f"{subset}_works")
        words += [f"--{subset}", share] if share is not None else []
        words += [f"--{subset}-works", *works] if works else []
    return words


def _learning_words(args: argparse.Namespace) -> list[str]:
    """Return the options of `fairtale bpe train` besides the size of the vocabulary."""
    words = ["--max-lines", args.tokenizer_sample] if args.tokenizer_sample else []
    return [*words, *(["--symbols", *MARKS] if args.dialog_marks else [])]


def _train_tokenizer(work: prepare.Work, vocab_size: str, learning: list[str]) -> tuple[str, str]:
    """Train a tokenizer on the training works; return the paths of its file and dictionary."""
    prepare.say("2/4 learning %s pieces from the training works", vocab_size)
    folder = os.path.join(work.folder, "tokenizer")
    train = os.path.join(work.text, "train.jsonl")
    prepare.call("bpe", "train", train, "--output", folder, "--vocab-size", vocab_size, *learning)
    return os.path.join(folder, TOKENIZER_JSON), os.path.join(folder, DICTIONARY)


def _binarise(work: prepare.Work, tokenizer: str, dictionary: str, workers: int) -> None:
    from ..plugin import user_dir

    texts = prepare.subset_files(work.text, "jsonl")
    prepare.say("3/4 encoding")
    encode = ["--tokenizer", tokenizer, "--output-dir", work.pieces, "--workers", str(workers)]
    prepare.call("bpe", "encode", *texts.values(), *encode)
    # The task reads dictionaries of both kinds; fairseq itself knows only its own.
    words = ["--only-source", "--srcdict", dictionary]
    words += ["--user-dir", str(user_dir()), "--task", "story_lm"]
    for subset in texts:
        words += [f"--{subset}pref", os.path.join(work.pieces, f"{subset}.txt")]
    prepare.preprocess(work, words, workers, counted=work.pieces)
    shutil.copyfile(tokenizer, os.path.join(work.made, TOKENIZER_JSON))


def _keep_texts(work: prepare.Work) -> None:
    """Keep the held-out works, for prompts and as references, and the report."""
    os.remove(os.path.join(work.text, "train.jsonl"))
    shutil.copytree(work.text, os.path.join(work.made, "text"))
