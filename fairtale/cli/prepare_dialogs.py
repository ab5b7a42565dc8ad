"""Prepare dialogs for training: clean, split, learn pieces, encode, binarise.

--tokenizer takes the tokenizer and the dictionary of a pretrained model instead of learning pieces;
its data folder has both.

The folder --data-bin appears complete or not at all. A second run with the same settings does
nothing. --corpus sets the defaults of an experiment; without --source, its files are downloaded:

  opensubtitles   OpenSubtitles 2018 from OPUS (English has about 4 GB), with at most 3 turns of
                  context, and shares of 0.0005 for validation and test, split by document. The
                  environment variable OPENSUBTITLES_URL sets another address of the file.
  amazon_qa       Amazon's questions and answers, with shares of 0.005 for validation and test,
                  split by product; duplicates are removed (--dedupe). The environment variable
                  AMAZON_QA_URL sets another address of the site.
"""

import argparse
import gzip
import itertools
import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from ..data.corpus.byte_level_files import TOKENIZER_JSON
from ..data.corpus.whole_folder import describe_source, is_ready
from ..data.dialog.line_format import MARKS
from ..data.documents.mongo_config import PREFIX
from ..data.documents.sources import describe_collections
from ..errors import UserError
from . import prepare
from .argument_types import positive_int
from .corpus_output import add_held_out_arguments
from .files import whole_file
from .model_tokenizer import DICTIONARY, checksums, find_model
from .mongo_dialogs import write_conversations
from .prepare_pieces import Pieces

_OPENSUBTITLES_SITE = "https://object.pouta.csc.fi/OPUS-OpenSubtitles/v2018/mono"
_DEFAULT_VOCAB_SIZE = "32000"
_AMAZON_SITE = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/qa"

# Categories that have a file with one answer to a question; all but the first four also have a
# file with many answers.
_SHOPS_OF_ONE_ANSWER = (
    *("Appliances", "Arts_Crafts_and_Sewing", "Industrial_and_Scientific", "Software"),
    *("Automotive", "Baby", "Beauty", "Cell_Phones_and_Accessories"),
    *("Clothing_Shoes_and_Jewelry", "Electronics", "Grocery_and_Gourmet_Food"),
    *("Health_and_Personal_Care", "Home_and_Kitchen", "Musical_Instruments", "Office_Products"),
    *("Patio_Lawn_and_Garden", "Pet_Supplies", "Sports_and_Outdoors"),
    *("Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games"),
)
_SHOPS_OF_MANY_ANSWERS = _SHOPS_OF_ONE_ANSWER[4:]


class Corpus(NamedTuple):
    """The defaults of an experiment, and the options that only this experiment has."""

    share: str = "0.005"  # share of the validation set, and of the test set
    options: tuple[str, ...] = ()  # options of `fairtale dialogs`
    own: tuple[str, ...] = ()  # names of options that other corpora do not have


CORPORA = {
    "opensubtitles": Corpus("0.0005", ("--max-context-turns", "3"), ("language", "lines")),
    "amazon_qa": Corpus(options=("--dedupe",), own=("answers", "categories")),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--corpus", choices=tuple(CORPORA), help="experiment whose defaults and files are used"
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PATH",
        help="file or folder of dialogs (see: fairtale dialogs --help), or mongo:CONFIG.json with "
        "collections of questions and answers; may be repeated",
    )
    prepare.add_shared_arguments(
        parser,
        os.path.join("data-bin", "dialog"),
        None,
        "size of the vocabulary, including all special symbols (default: "
        f"{_DEFAULT_VOCAB_SIZE}); not with --tokenizer",
    )
    prepare.add_bpe_argument(parser)
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="folder of a model with tokenizer.json and dict.txt, which has "
        f"{' and '.join(MARKS)} (default: learn pieces)",
    )
    default = "the share of --corpus, else 0.005"
    prepare.add_split_arguments(parser, default, default)
    add_held_out_arguments(parser, "dialogs")
    parser.add_argument(
        "--max-unknown",
        type=prepare.as_typed(int),
        default="3",
        metavar="N",
        help="leave out a dialog if one of its turns has more than N unknown pieces "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--download-dir",
        metavar="DIR",
        help=f"folder for downloaded files (default: {prepare.DOWNLOAD_DIR}/CORPUS)",
    )
    group = parser.add_argument_group("download of opensubtitles")
    group.add_argument("--language", metavar="XX", help="language of the subtitles (default: en)")
    group.add_argument("--lines", type=positive_int, metavar="N", help="use only the first N lines")
    group = parser.add_argument_group("download of amazon_qa")
    group.add_argument(
        "--answers",
        choices=("one", "many", "both"),
        help="files with one answer to a question, with many, or both (default: both)",
    )
    group.add_argument(
        "--categories",
        metavar='"A B"',
        help='product categories, e.g. "Electronics Baby" (default: all); four of them have no '
        "file with many answers",
    )
    flags = ("--dedupe", "--strict", "--keep-asides", "--keep-punctuation", "--allow-equal")
    valued = (
        *("--format", "--min-chars", "--max-chars", "--max-context-turns"),
        *("--fields", "--markup", "--max-loss"),
    )
    prepare.pass_on(parser, "dialogs", (*flags, "--split-by-name"), valued)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    corpus = CORPORA.get(args.corpus, Corpus())
    _check_own_options(args, corpus)
    if args.tokenizer and args.vocab_size:
        raise UserError("--vocab-size: the tokenizer of --tokenizer has its size; give one of them")
    model = _find_dialog_model(args.tokenizer) if args.tokenizer else None
    valid, test = args.valid or corpus.share, args.test or corpus.share
    options = [*corpus.options, *args.options]
    prepare.check_passed_on("dialogs", ["-", "--output", "-", *options], valid, test)
    sources = args.source or _fetched(args)
    prepare.check_sources([s for s in sources if not s.startswith(PREFIX)])
    learned = [f"vocab-size {args.vocab_size or _DEFAULT_VOCAB_SIZE}"]
    if args.tokenizer and args.normalization:
        raise UserError("--normalization: the tokenizer of --tokenizer has its own; leave it out")
    learned += prepare.bpe_settings(args.bpe, args.normalization)
    settings = [
        *([f"tokenizer {checksums(*model)}"] if model else learned),
        f"valid {valid}",
        f"test {test}",
        f"seed {args.seed}",
        f"max-unknown {args.max_unknown}",
        f"options {' '.join(options)}",
        *(f"source {_describe(source)}" for source in sources),
        *prepare.held_out_settings(args),
    ]
    split = prepare.split_words(args, valid, test)
    if is_ready(args.data_bin, settings):
        return
    with prepare.new_data(args.data_bin, settings) as work:
        prepare.say("1/4 cleaning and splitting")
        sources = _as_files(sources, work, "--strict" in options)
        prepare.call("dialogs", *sources, "--output", work.text, *split, *options)
        _binarise(work, args, model)
        kept = os.path.join(work.made, "text")
        os.makedirs(kept, exist_ok=True)
        shutil.move(os.path.join(work.text, "report.json"), kept)


def _describe(source: str) -> str:
    return describe_collections(source) if source.startswith(PREFIX) else describe_source(source)


def _as_files(sources: Sequence[str], work: prepare.Work, strict: bool) -> list[str]:
    """Return the sources, with files of conversations in the place of collections."""
    paths = list(sources)
    for number, source in enumerate(sources):
        if source.startswith(PREFIX):
            paths[number] = os.path.join(work.folder, f"conversations{number}.jsonl")
            write_conversations(source, paths[number], strict)
    return paths


def _check_own_options(args: argparse.Namespace, corpus: Corpus) -> None:
    for name, other in CORPORA.items():
        given = [option for option in other.own if getattr(args, option) is not None]
        if given and corpus is not other:
            raise UserError(f"--{given[0]}: only allowed with --corpus {name}; leave it out")


def _find_dialog_model(path: str) -> tuple[str, str]:
    """Return the paths of a model's tokenizer and dictionary, which must have the marks.

    Raises:
        UserError: as :func:`find_model`, or the dictionary lacks a mark.
    """
    from ..data.corpus.tokenizer_dictionary import read_dictionary  # imports fairseq

    tokenizer, dictionary = find_model(path)
    symbols = read_dictionary(dictionary).indices
    for mark in MARKS:
        if mark not in symbols:
            raise UserError(
                f"--tokenizer {path}: its dictionary lacks {mark}, without which a model learns no "
                "dialogs; pretrain with the data of: fairtale prepare documents --dialog-marks"
            )
    return tokenizer, dictionary


def _binarise(work: prepare.Work, args: argparse.Namespace, model: tuple[str, str] | None) -> None:
    train, *held_out = (path for path in prepare.subset_files(work.text, "tsv").values())
    words = ["--only-source"]
    if model is None:
        dictionary = os.path.join(work.folder, DICTIONARY)
        pieces = Pieces(args.bpe, work.made, dictionary, args.workers, args.normalization)
        vocab_size = args.vocab_size or _DEFAULT_VOCAB_SIZE
        prepare.say("2/4 learning %s pieces from the training dialogs", vocab_size)
        pieces.learn([train], vocab_size, "--dialog")
    else:
        from ..plugin import user_dir

        tokenizer, dictionary = model
        pieces = Pieces(prepare.BYTE_LEVEL, work.made, dictionary, args.workers)
        prepare.say("2/4 the tokenizer is %s", tokenizer)
        os.makedirs(work.made, exist_ok=True)
        shutil.copyfile(tokenizer, os.path.join(work.made, TOKENIZER_JSON))
        # the task reads dictionaries of both kinds; fairseq itself knows only its own
        words += ["--user-dir", str(user_dir()), "--task", "dialog_lm"]
    prepare.say("3/4 encoding")
    options = ["--dialog", "--max-unknown", args.max_unknown]
    pieces.encode([train], work.pieces, *options)
    if held_out:  # keep the text of the held-out dialogs that are binarised, line by line
        kept = os.path.join(work.made, "text")
        pieces.encode(held_out, work.pieces, *options, "--kept-dir", kept)
    pieces.count_original_bytes(prepare.subset_files(work.text, "tsv"))
    words += ["--srcdict", dictionary]
    for subset, path in prepare.subset_files(work.pieces, "tsv").items():
        words += [f"--{subset}pref", path]
    prepare.preprocess(work, words, args.workers, counted=work.pieces)


# -------------------------------------------------------------------------------- sources


def _fetched(args: argparse.Namespace) -> list[str]:
    """Download the files of the corpus and return their paths."""
    if args.corpus is None:
        raise UserError(
            f"--source is missing: give your dialogs, or --corpus {' or '.join(CORPORA)}"
        )
    folder = args.download_dir or os.path.join(prepare.DOWNLOAD_DIR, args.corpus)
    if args.corpus == "opensubtitles":
        return [_fetched_subtitles(folder, args.language or "en", args.lines)]
    site = os.environ.get("AMAZON_QA_URL") or _AMAZON_SITE
    names = amazon_files(args.answers or "both", (args.categories or "").split())
    for name in names:
        prepare.fetch(f"{site}/{name}", os.path.join(folder, name))
    return [os.path.join(folder, name) for name in names]


def _fetched_subtitles(folder: str, language: str, num_lines: int | None) -> str:
    url = os.environ.get("OPENSUBTITLES_URL") or f"{_OPENSUBTITLES_SITE}/{language}.txt.gz"
    path = os.path.join(folder, os.path.basename(url))
    prepare.fetch(url, path)
    if num_lines is None:
        return path
    part = f"{path.removesuffix('.txt.gz')}.{num_lines}.txt"
    if not os.path.isfile(part):
        with gzip.open(path) as lines, whole_file(part, "wb") as stream:
            stream.writelines(itertools.islice(lines, num_lines))
    return part


def amazon_files(answers: str, categories: Sequence[str]) -> list[str]:
    """Return the names of the files to download from the site.

    Args:
        answers: ``one``, ``many`` or ``both``.
        categories: product categories; empty for all.

    Raises:
        UserError: a category does not exist, or there is no such file.
    """
    for name in categories:
        if name not in _SHOPS_OF_ONE_ANSWER:
            known = " ".join(_SHOPS_OF_ONE_ANSWER)
            raise UserError(f"--categories {name}: must be one of {known}")
    files = []
    if answers != "many":
        files += [f"qa_{name}.json.gz" for name in categories or _SHOPS_OF_ONE_ANSWER]
    if answers != "one":
        for name in categories or _SHOPS_OF_MANY_ANSWERS:
            if name in _SHOPS_OF_MANY_ANSWERS:
                files.append(f"icdm/QA_{name}.json.gz")
            else:
                prepare.say("%s has no file with many answers to a question", name)
    if not files:
        raise UserError(
            f"--categories '{' '.join(categories)}' --answers {answers}: there is no such file"
        )
    return files
