"""Train a byte-level BPE tokenizer as of GPT-2.

Text files have one text a line; the texts of JSON lines (.jsonl, field "text") may contain line
breaks. The verb writes to the folder --output: tokenizer.json, vocab.json, merges.txt and
tokenizer_config.json, which transformers reads, and a dict.txt for fairseq-preprocess --srcdict.
The index of a piece in fairseq's dictionary is its id in all of them.

The first ids are <s>, <pad>, </s> and <unk>, then --symbols. Their letters in a text are encoded
like any other characters. All 256 bytes have an entry, so no text is encoded as <unk>.

The result depends only on the texts and the options. Texts are read one by one; memory is needed
for the different words.

With --dialog, the texts are dialogs as written by `fairtale dialogs`, and <CTX> and <SEP> are
symbols.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.corpus.byte_level import BYTE_ALPHABET
from ..data.corpus.byte_level_files import CONFIG, MERGES, TOKENIZER_JSON, VOCABULARY
from ..data.corpus.json_lines import read_texts
from ..data.dialog.line_format import MARKS
from ..errors import UserError
from .argument_types import positive_int
from .files import whole_file
from .optional import require
from .progress import progress_bar
from .spm_dialog import read_sides
from .spm_train import FAIRSEQ_SPECIALS, TrainingLines, check_symbols

logger = logging.getLogger(__name__)

_LARGEST = 1_000_000  # --vocab-size; tokenizers reserves memory for all pieces beforehand
_DICTIONARY = "dict.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("text", nargs="+", help="UTF-8 text files, or JSON lines (.jsonl)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the tokenizer")
    parser.add_argument(
        "--dict",
        metavar="FILE",
        help="fairseq dictionary to write (default: dict.txt in the folder)",
    )
    parser.add_argument(
        "--vocab-size",
        type=positive_int,
        default=5120,
        metavar="N",
        help="size of the vocabulary, including 256 bytes and the special symbols (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--min-frequency",
        type=positive_int,
        default=2,
        metavar="N",
        help="minimum number of occurrences of a pair that is merged (default: %(default)s)",
    )
    parser.add_argument(
        "--symbols",
        nargs="*",
        default=[],
        metavar="S",
        help="special symbols: single vocabulary entries that are never matched in a text",
    )
    parser.add_argument(
        "--dialog",
        action="store_true",
        help="lines are turns separated by tabs: learn from the queries and responses, and add "
        f"{' and '.join(MARKS)} to the vocabulary",
    )
    parser.add_argument(
        "--max-lines",
        type=positive_int,
        default=1_000_000,
        metavar="N",
        help="maximum number of texts to train on, evenly spread (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    symbols = _symbols(args)
    library = require("tokenizers", extra="hf")
    read = read_sides if args.dialog else read_texts
    texts = TrainingLines(args.text, args.max_lines, sys.maxsize, read)
    if not texts.num_lines:
        raise UserError(f"{', '.join(args.text)}: holds no text to train on")
    model = _train(library, texts, symbols, args)
    files = _files(model, symbols)
    for name, content in files.items():
        path = args.dict if name == _DICTIONARY and args.dict else os.path.join(args.output, name)
        with whole_file(path) as stream:
            stream.write(content)
    used = "all" if texts.step == 1 else f"every {texts.step:.4g}th"
    print(
        f"byte-level BPE of {len(model['vocab'])} pieces from {texts.num_used} texts ({used}) of "
        f"{texts.num_lines} -> {args.output}: {', '.join(files)}"
    )


def _symbols(args: argparse.Namespace) -> list[str]:
    """Return the special symbols in order of their ids, after checks of all options.

    Raises:
        UserError: a symbol is unusable, the vocabulary is too small, or the output exists.
    """
    check_symbols(args)
    symbols = [*FAIRSEQ_SPECIALS, *(MARKS if args.dialog else ()), *args.symbols]
    for symbol in symbols:
        if symbol in BYTE_ALPHABET:
            raise UserError(f"--symbols {symbol}: is the entry of a byte; give another one")
    least = len(symbols) + len(BYTE_ALPHABET)
    if args.vocab_size > _LARGEST:
        raise UserError(f"--vocab-size {args.vocab_size}: must be at most {_LARGEST}")
    if args.vocab_size < least:
        raise UserError(
            f"--vocab-size {args.vocab_size}: special symbols and bytes alone need {least}; raise "
            "it"
        )
    for name in (TOKENIZER_JSON, _DICTIONARY):
        if os.path.exists(os.path.join(args.output, name)):
            raise UserError(
                f"--output {args.output}: has a {name}; remove it, or choose another folder"
            )
    return symbols


def _train(
    library: Any, texts: TrainingLines, symbols: Sequence[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Return the model as in a tokenizer.json: ``vocab`` and ``merges``.

    Raises:
        UserError: the texts are too small for the vocabulary.
    """
    logger.info("training byte-level BPE on %d texts", texts.num_used)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=args.vocab_size,
        min_frequency=args.min_frequency,
        special_tokens=list(symbols),
        initial_alphabet=list(BYTE_ALPHABET),
        show_progress=sys.stderr.isatty() and not args.quiet,
    )
    with progress_bar(texts.num_used, " texts", "reading", disable=args.quiet) as bar:
        tokenizer.train_from_iterator(_counted(texts, bar), trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    if len(model["vocab"]) < args.vocab_size:
        raise UserError(
            f"--vocab-size {args.vocab_size}: the text is too small for so many pieces; give at "
            f"most {len(model['vocab'])}"
        )
    return model


def _counted(texts: TrainingLines, bar: Any) -> Iterator[str]:
    for text in texts:
        bar.update(1)
        yield text
    bar.close()
    logger.info("merging pairs")


def _files(model: dict[str, Any], symbols: Sequence[str]) -> dict[str, str]:
    """Return the content of each file; tokenizer.json is the last one, to be written last."""
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    step = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    # The special symbols are entries of the model only. As "added_tokens", they would be matched
    # in a text; so a text that quotes </s> would end there.
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **step},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **step},
        "model": {**model, "vocab": vocabulary},
    }
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": symbols[0],
        "pad_token": symbols[1],
        "eos_token": symbols[2],
        "unk_token": symbols[3],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    merges = [" ".join(pair) for pair in model["merges"]]
    return {
        VOCABULARY: json.dumps(vocabulary, ensure_ascii=False) + "\n",
        MERGES: "\n".join(["#version: 0.2", *merges]) + "\n",
        CONFIG: json.dumps(config, indent=2) + "\n",
        _DICTIONARY: "".join(f"{piece} 0\n" for piece in list(vocabulary)[len(FAIRSEQ_SPECIALS) :]),
        TOKENIZER_JSON: json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n",
    }
