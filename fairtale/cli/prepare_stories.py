"""Prepare stories for training: clean, split, learn pieces, encode, binarise.

The folder --data-bin appears complete or not at all. A second run with the same settings does
nothing. Without --source, TinyStories_all_data.tar.gz is downloaded (1.6 GB); the environment
variables TINYSTORIES_URL and TINYSTORIES_SHA256 set another address and checksum.
"""

import argparse
import os
import shutil
from pathlib import Path

from ..data.corpus.whole_folder import describe_source, is_ready
from . import prepare
from .corpus_output import add_held_out_arguments
from .prepare_pieces import Pieces

_URL = (
    "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/"
    "TinyStories_all_data.tar.gz"
)
_DEFAULT_SHARE = "0.005"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PATH",
        help="file, folder or archive of stories; may be repeated (see: fairtale stories --help)",
    )
    prepare.add_shared_arguments(
        parser,
        os.path.join("data-bin", "story_tinystories"),
        5120,
        "size of the vocabulary, including fairseq's four special symbols",
    )
    prepare.add_bpe_argument(parser)
    prepare.add_split_arguments(parser, _DEFAULT_SHARE, "the same as --valid")
    add_held_out_arguments(parser, "stories")
    parser.add_argument(
        "--download-dir",
        default=prepare.DOWNLOAD_DIR,
        metavar="DIR",
        help="folder for downloaded files (default: %(default)s)",
    )
    valued = ("--format", "--max-words", "--text-field", "--markup", "--max-loss")
    prepare.pass_on(parser, "stories", ("--dedupe", "--strict"), valued)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    valid = args.valid or _DEFAULT_SHARE
    test = args.test or valid
    prepare.check_passed_on("stories", ["-", "--output", "-", *args.options], valid, test)
    sources = args.source or [_fetched(args.download_dir)]
    prepare.check_sources(sources)
    settings = [
        f"vocab-size {args.vocab_size}",
        *prepare.bpe_settings(args.bpe, args.normalization),
        f"valid {valid}",
        f"test {test}",
        f"seed {args.seed}",
        f"options {' '.join(args.options)}",
        *(f"source {describe_source(source)}" for source in sources),
        *prepare.held_out_settings(args),
    ]
    split = prepare.split_words(args, valid, test)
    if is_ready(args.data_bin, settings):
        return
    with prepare.new_data(args.data_bin, settings) as work:
        prepare.say("1/4 cleaning and splitting")
        prepare.call("stories", *sources, "--output", work.text, *split, *args.options)
        _binarise(work, args)
        _keep_texts(work)


def _fetched(folder: str) -> str:
    url = os.environ.get("TINYSTORIES_URL") or _URL
    path = os.path.join(folder, os.path.basename(url))
    prepare.fetch(url, path, os.environ.get("TINYSTORIES_SHA256", ""))
    return path


def _binarise(work: prepare.Work, args: argparse.Namespace) -> None:
    dictionary = os.path.join(work.folder, "dict.txt")
    pieces = Pieces(args.bpe, work.made, dictionary, args.workers, args.normalization)
    texts = prepare.subset_files(work.text, "txt")
    prepare.say("2/4 learning %s pieces from the training stories", args.vocab_size)
    pieces.learn([os.path.join(work.text, "train.txt")], args.vocab_size)
    prepare.say("3/4 encoding")
    pieces.encode(list(texts.values()), work.pieces)
    pieces.count_original_bytes(texts)
    words = ["--only-source", "--srcdict", dictionary]
    for subset in texts:
        words += [f"--{subset}pref", os.path.join(work.pieces, f"{subset}.txt")]
    prepare.preprocess(work, words, args.workers, counted=work.text)


def _keep_texts(work: prepare.Work) -> None:
    """Keep the text of the held-out stories, for prompts and as references."""
    os.remove(os.path.join(work.text, "train.txt"))
    kept = Path(work.made, "text")
    kept.mkdir()
    for path in Path(work.text).iterdir():
        shutil.move(path, kept / path.name)
