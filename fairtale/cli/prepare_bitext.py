"""Prepare parallel text for training: clean, tokenise, filter, learn pieces, encode, binarise.

The folder --data-bin appears complete or not at all. A second run with the same settings does
nothing. Without --source, the English-Russian corpora of WMT16 that need no licence are downloaded
(Common Crawl and News Commentary v11, about 1 GB), with newstest2015 for --valid and newstest2016
for --test. The environment variable WMT16_MIRROR sets another address of the archives.
"""

import argparse
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from ..data.corpus.containers import PACKED
from ..data.corpus.whole_folder import describe_source, is_ready
from ..errors import UserError
from . import prepare
from .argument_types import positive_int
from .files import whole_file

# See https://www.statmt.org/wmt16/translation-task.html for these addresses.
_WMT13 = "https://www.statmt.org/wmt13"
_WMT16 = "https://data.statmt.org/wmt16/translation-task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PREFIX",
        help="training corpus: PREFIX.en and PREFIX.ru, or one file with both languages (see: "
        "fairtale bitext --help); may be repeated",
    )
    parser.add_argument(
        "--valid",
        metavar="PREFIX",
        help="validation set: PREFIX.en and PREFIX.ru; or PREFIX-src.en.sgm and PREFIX-ref.ru.sgm "
        "as in WMT's archives; or two files SOURCE,TARGET",
    )
    parser.add_argument(
        "--valid-size",
        type=prepare.as_typed(positive_int),
        metavar="N",
        help="without --valid, number of training pairs to hold out (default: 2000)",
    )
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        metavar="PREFIX",
        help="test set, given as --valid; may be repeated (the splits are test, test1, ...)",
    )
    parser.add_argument(
        "-s",
        "--source-lang",
        default="en",
        metavar="LANG",
        help="source language (default: %(default)s)",
    )
    parser.add_argument(
        "-t",
        "--target-lang",
        default="ru",
        metavar="LANG",
        help="target language (default: %(default)s)",
    )
    prepare.add_shared_arguments(
        parser,
        os.path.join("data-bin", "wmt16_en_ru"),
        32000,
        "size of the vocabulary, including fairseq's four special symbols; 10000 suits a small "
        "model",
    )
    parser.add_argument(
        "--joint",
        action="store_true",
        help="learn one vocabulary for both languages instead of one for each",
    )
    parser.add_argument(
        "--type",
        choices=("bpe", "unigram", "char", "word"),
        default="bpe",
        help="type of the SentencePiece model (default: %(default)s)",
    )
    prepare.add_normalization_argument(parser)
    parser.add_argument(
        "--download-dir",
        default=os.path.join(prepare.DOWNLOAD_DIR, "wmt16"),
        metavar="DIR",
        help="folder for downloaded files (default: %(default)s)",
    )
    flags = ("--no-normalize", "--escape", "--keep-duplicates")
    valued = (
        *("--max-words", "--max-ratio", "--tokenizer", "--seed"),
        *("--format", "--fields", "--markup", "--max-loss"),
    )
    prepare.pass_on(parser, "bitext", flags, valued)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    prepare.check_passed_on("bitext", [*_words_of_bitext(args, "-"), "--source", "-"])
    if not args.source:
        _fetch_wmt16(args)
    pair = (args.source_lang, args.target_lang)
    settings = [
        f"languages {pair[0]} {pair[1]}",
        f"vocab-size {args.vocab_size}",
        f"joint {'yes' if args.joint else 'no'}",
        f"type {args.type}",
        *([f"normalization {args.normalization}"] if args.normalization else []),
        f"valid-size {args.valid_size or 'default'}",
        f"options {' '.join(args.options)}",
        *(_describe("source", prefix, pair) for prefix in args.source),
        *(_describe("valid", prefix, pair) for prefix in [args.valid] if prefix),
        *(_describe("test", prefix, pair) for prefix in args.test),
    ]
    if is_ready(args.data_bin, settings):
        return
    with prepare.new_data(args.data_bin, settings) as work:
        prepare.say("1/4 cleaning and tokenising")
        prepare.call("bitext", *_words_of_bitext(args, work.text))
        models, dictionaries = _learn(work, args)
        prepare.say("3/4 encoding")
        encode = ["--output-dir", work.pieces, "--workers", str(args.workers)]
        for lang, model in zip(pair, models, strict=True):
            texts = sorted(map(str, Path(work.text).glob(f"*.{lang}")))
            prepare.call("spm", "encode", *texts, "--model", model, *encode)
        words = [*_prefixes(work.pieces, len(args.test)), *dictionaries]
        words = ["-s", pair[0], "-t", pair[1], *words]
        prepare.preprocess(work, words, args.workers, counted=work.pieces)
        _keep_texts(work)


def _describe(option: str, prefix: str, pair: tuple[str, str]) -> str:
    """Return the line of the settings that describes the files of ``prefix``."""
    source, target = pair
    names = [f"{prefix}.{source}", f"{prefix}.{target}"]
    names += [f"{prefix}-src.{source}.sgm", f"{prefix}-ref.{target}.sgm"]
    names = [f"{name}{packed}" for packed in ("", *PACKED) for name in names]
    names += [prefix, *(prefix.split(",") if "," in prefix else ())]
    files = [describe_source(name) for name in names if os.path.isfile(name)]
    return " ".join([option, prefix, *files])


def _words_of_bitext(args: argparse.Namespace, output: str) -> list[str]:
    words = [word for prefix in args.source for word in ("--source", prefix)]
    words += [word for prefix in args.test for word in ("--test", prefix)]
    words += ["--valid", args.valid] if args.valid else []
    words += ["--valid-size", args.valid_size] if args.valid_size else []
    words += ["-s", args.source_lang, "-t", args.target_lang, "--output", output]
    return [*words, "--workers", str(args.workers), *args.options]


def _learn(work: prepare.Work, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Learn pieces; return the models of both languages and the options of the dictionaries."""
    pair = (args.source_lang, args.target_lang)
    # The text is already normalised; SentencePiece must not change it further (№ to No).
    learn = ["--type", args.type, "--vocab-size", args.vocab_size]
    learn += ["--normalization", args.normalization or prepare.IDENTITY]
    learn += ["--workers", str(args.workers)]
    model = os.path.join(work.made, "sentencepiece.bpe")
    texts = [os.path.join(work.text, f"train.{lang}") for lang in pair]
    if args.joint:
        prepare.say("2/4 learning %s pieces of both languages", args.vocab_size)
        dictionary = os.path.join(work.folder, "dict.txt")
        prepare.call("spm", "train", *texts, "--model", model, "--dict", dictionary, *learn)
        return [f"{model}.model"] * 2, ["--joined-dictionary", "--srcdict", dictionary]
    prepare.say("2/4 learning %s pieces of each language", args.vocab_size)
    dictionaries = [os.path.join(work.folder, f"dict.{lang}.txt") for lang in pair]
    for lang, text, dictionary in zip(pair, texts, dictionaries, strict=True):
        words = ["--model", f"{model}.{lang}", "--dict", dictionary, *learn]
        prepare.call("spm", "train", text, *words)
    models = [f"{model}.{lang}.model" for lang in pair]
    return models, ["--srcdict", dictionaries[0], "--tgtdict", dictionaries[1]]


def _prefixes(pieces: str, num_tests: int) -> list[str]:
    words = ["--trainpref", os.path.join(pieces, "train")]
    words += ["--validpref", os.path.join(pieces, "valid")]
    # fairseq names the test sets of a list test, test1, ..., as `fairtale bitext` does.
    names = [f"test{number or ''}" for number in range(num_tests)]
    tests = ",".join(os.path.join(pieces, name) for name in names)
    return [*words, "--testpref", tests] if tests else words


def _keep_texts(work: prepare.Work) -> None:
    """Keep the original text of the held-out sets, to translate it and as references."""
    kept = Path(work.made, "text")
    kept.mkdir()
    for path in [*Path(work.text, "raw").iterdir(), Path(work.text, "report.json")]:
        shutil.move(path, kept / path.name)
    shutil.move(os.path.join(work.text, "tokenizer.json"), work.made)


# -------------------------------------------------------------------------------- sources


def _fetch_wmt16(args: argparse.Namespace) -> None:
    """Download the corpora of WMT16; set ``args.source``, and the held-out sets if not given."""
    source, target = args.source_lang, args.target_lang
    if (source, target) not in (("en", "ru"), ("ru", "en")):
        raise UserError(
            f"-s {source} -t {target}: only English-Russian corpora can be downloaded; give "
            "--source PREFIX"
        )
    folder = args.download_dir
    corpora = {
        "commoncrawl.ru-en": f"{_WMT13}/training-parallel-commoncrawl.tgz",
        "news-commentary-v11.ru-en": f"{_WMT16}/training-parallel-nc-v11.tgz",
    }
    sets = {
        f"newstest2015-{source}{target}": f"{_WMT16}/dev.tgz",
        f"newstest2016-{source}{target}": f"{_WMT16}/test.tgz",
    }
    for name, url in corpora.items():
        fetch_archive(url, folder, [f"{name}.en", f"{name}.ru"])
    for name, url in sets.items():
        fetch_archive(url, folder, [f"{name}-src.{source}.sgm", f"{name}-ref.{target}.sgm"])
    valid, test = (os.path.join(folder, name) for name in sets)
    args.source = [os.path.join(folder, name) for name in corpora]
    args.valid = args.valid or (None if args.valid_size else valid)
    args.test = args.test or [test]


def fetch_archive(url: str, folder: str, names: Sequence[str]) -> None:
    """Download an archive of WMT and extract files by their names, whatever their folder in it.

    Args:
        url: address of the archive; ``WMT16_MIRROR`` replaces the part before the file name.
        folder: folder for the archive and for the files.
        names: names of the files; existing files are not extracted again.

    Raises:
        UserError: the archive is damaged, or a file is not in it.
    """
    archive = os.path.join(folder, os.path.basename(url))
    mirror = os.environ.get("WMT16_MIRROR")
    prepare.fetch(f"{mirror}/{os.path.basename(url)}" if mirror else url, archive)
    wanted = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if not wanted:
        return
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                name = os.path.basename(member.name)
                content = members.extractfile(member) if name in wanted else None
                if content is None:
                    continue
                with whole_file(os.path.join(folder, name), "wb") as stream:
                    shutil.copyfileobj(content, stream)
                wanted.remove(name)
                if not wanted:
                    return
    except tarfile.TarError as error:
        raise UserError(
            f"{archive}: damaged or incomplete archive ({error}); remove it and run again"
        ) from None
    raise UserError(f"{archive} holds no file {wanted[0]}; give --source, --valid and --test")
