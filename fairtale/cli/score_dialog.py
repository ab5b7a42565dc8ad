"""Score replies against references: BLEU, chrF, distinct-1/2, length, unigram F1.

HYP is a file with one reply a line (with --nbest N, N lines for each reference, the best first),
or the output of fairseq-generate or fairseq-interactive, of which the D- lines are read (the
H- lines if there are none). REF is a file with one response a line. If a line holds turns
separated by tabs, the last turn is the response, so a .tsv file of `fairtale dialogs` can be
given.

If there are several candidates for a reference, the first row scores the first candidates, the
second row scores all candidates, and the third row scores the candidates with the highest F1,
which is the best possible result of re-ranking.

The last line holds the settings that the scores depend on.
"""

import argparse
import functools
import re
import statistics
from collections import Counter
from typing import NamedTuple

from ..data.corpus.text_lines import read_text_lines
from ..data.output_log import parse_output
from ..errors import UserError
from .argument_types import positive_int
from .tables import table

_GENERATED = re.compile(r"[SH]-\d+\t")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("hyp", metavar="HYP", help="replies of a model; - for standard input")
    parser.add_argument("ref", metavar="REF", help="reference responses")
    parser.add_argument(
        "--nbest",
        type=positive_int,
        metavar="N",
        help="candidates for each reference (default: their number in the output of "
        "fairseq-generate, else 1)",
    )
    parser.add_argument(
        "--tokenize",
        default="13a",
        metavar="NAME",
        help="sacreBLEU's tokenizer for BLEU and for the words of the other scores: 13a, intl, "
        "zh, char, ja-mecab, ko-mecab (default: %(default)s)",
    )
    parser.add_argument("--table", action="store_true", help="print a Markdown table")


class Scores(NamedTuple):
    """Scores of a list of replies; BLEU, chrF, distinct and F1 in percent, length in words."""

    bleu: float
    chrf: float
    distinct_1: float
    distinct_2: float
    mean_length: float
    f1: float


_HEADS = ("BLEU", "chrF", "distinct-1", "distinct-2", "length", "F1")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    references = [line.split("\t")[-1] for line in read_text_lines(args.ref)]
    if not references:
        raise UserError(f"{args.ref} holds no reference")
    candidates = read_candidates(args.hyp, args.nbest)
    if len(candidates) != len(references):
        raise UserError(
            f"{args.hyp} has replies to {len(candidates)} dialogs, {args.ref} has "
            f"{len(references)} references: both must belong to the same dialogs, in the same "
            "order"
        )
    scorer = DialogScorer(args.tokenize)
    nbest = len(candidates[0])
    rows = {"first": scorer.score([c[0] for c in candidates], references)}
    if nbest > 1:
        repeated = [reference for reference in references for _ in range(nbest)]
        rows[f"all {nbest}"] = scorer.score([c for group in candidates for c in group], repeated)
        best = [
            max(group, key=functools.partial(scorer.f1, reference=reference))
            for group, reference in zip(candidates, references, strict=True)
        ]
        rows[f"best F1 of {nbest}"] = scorer.score(best, references)
    num_empty = sum(not group[0].strip() for group in candidates)
    _print_rows(rows, args.table)
    print(f"{len(references)} dialogs, {num_empty} empty replies")
    print(scorer.signature(nbest))


def read_candidates(path: str, nbest: int | None) -> list[list[str]]:
    """Return the candidates of each dialog, the best first.

    Args:
        path: a file of replies, or the output of fairseq-generate or fairseq-interactive.
        nbest: number of candidates for each dialog; None for the number in fairseq's output,
            or 1 for a file of replies.

    Raises:
        UserError: the numbers of candidates differ, or a dialog has none.
    """
    lines = list(read_text_lines(path))
    if not lines:
        raise UserError(f"{path} holds no reply")
    if any(_GENERATED.match(line) for line in lines):
        return _read_generated(lines, path, nbest)
    nbest = nbest or 1
    if len(lines) % nbest:
        raise UserError(f"{path}: {len(lines)} lines are not a multiple of --nbest {nbest}")
    return [lines[i : i + nbest] for i in range(0, len(lines), nbest)]


def _read_generated(lines: list[str], path: str, nbest: int | None) -> list[list[str]]:
    """Return the replies in the output of fairseq-generate, in the order of the data."""
    replies: dict[int, list[str]] = {}
    for kind in ("D", "H"):  # text, or else pieces
        for output in parse_output((line.encode() for line in lines), kind):
            replies.setdefault(output.number, []).append(output.text.decode())
        if replies:
            break
    if not replies:
        raise UserError(f"{path}: output of fairseq-generate without H- or D- lines")
    missing = sorted(set(range(max(replies) + 1)) - set(replies))
    if missing:
        raise UserError(
            f"{path}: no reply to dialog {missing[0]} of {max(replies) + 1} "
            f"({len(missing)} missing); the output seems to be incomplete"
        )
    asked = nbest or len(replies[0])
    for number, group in replies.items():
        if len(group) < asked or (nbest is None and len(group) != asked):
            raise UserError(
                f"{path}: dialog {number} has {len(group)} candidates, not {asked}; lower --nbest"
            )
    return [replies[number][:asked] for number in sorted(replies)]


class DialogScorer:
    """Compute corpus-level scores of replies.

    distinct-n is the number of different n-grams of words in all replies divided by the number of
    all n-grams (Li et al. 2016 divide by the number of words). F1 is the harmonic mean of the
    precision and the recall of a reply's words, counted with repetitions, averaged over replies.
    Words are in lower case and contain a letter or digit.

    Args:
        tokenize: name of sacreBLEU's tokenizer.

    Raises:
        UserError: the tokenizer does not exist, or it needs a package that is not installed.
    """

    def __init__(self, tokenize: str) -> None:
        from sacrebleu.metrics import BLEU, CHRF

        if tokenize not in BLEU.TOKENIZERS:
            raise UserError(f"--tokenize {tokenize}: must be one of {', '.join(BLEU.TOKENIZERS)}")
        try:
            self._bleu, self._chrf = BLEU(tokenize=tokenize), CHRF()
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--tokenize {tokenize}: {reason}") from None
        self._words: dict[str, list[str]] = {}

    def words(self, text: str) -> list[str]:
        """Return the words of a reply."""
        if text not in self._words:
            tokens = self._bleu.tokenizer(text.lower()).split()
            self._words[text] = [t for t in tokens if any(c.isalnum() for c in t)]
        return self._words[text]

    def f1(self, reply: str, reference: str) -> float:
        """Return the unigram F1 of a reply, 0 to 1; it is 1 for two texts without words."""
        hyp, ref = self.words(reply), self.words(reference)
        if not hyp and not ref:
            return 1.0
        common = (Counter(hyp) & Counter(ref)).total()
        return 2 * common / (len(hyp) + len(ref))

    def distinct(self, replies: list[str], n: int) -> float:
        """Return the number of different n-grams of words divided by all n-grams, 0 to 1."""
        grams: Counter[tuple[str, ...]] = Counter()
        for reply in replies:
            words = self.words(reply)
            grams.update(zip(*(words[i:] for i in range(n)), strict=False))
        return len(grams) / grams.total() if grams else 0.0

    def score(self, replies: list[str], references: list[str]) -> Scores:
        """Return the scores of replies, with one reference for each reply."""
        pairs = zip(replies, references, strict=True)
        return Scores(
            self._bleu.corpus_score(replies, [references]).score,
            self._chrf.corpus_score(replies, [references]).score,
            100 * self.distinct(replies, 1),
            100 * self.distinct(replies, 2),
            statistics.fmean(len(self.words(reply)) for reply in replies),
            100 * statistics.fmean(self.f1(reply, reference) for reply, reference in pairs),
        )

    def signature(self, nbest: int) -> str:
        """Return the settings that the scores depend on, as one line; call :meth:`score` first."""
        tokenizer = self._bleu.get_signature().info["tok"]
        return " ".join(
            (
                f"BLEU|{self._bleu.get_signature()}",
                f"chrF|{self._chrf.get_signature()}",
                f"words|tok:{tokenizer}|case:lower|punctuation:no",
                "distinct|types/ngrams|pool:corpus",
                "F1|unigrams|mean:replies",
                f"nbest:{nbest}",
            )
        )


def _print_rows(rows: dict[str, Scores], as_table: bool) -> None:
    cells = [(name, *(f"{value:.2f}" for value in scores)) for name, scores in rows.items()]
    print(table(("reply", *_HEADS), cells, as_table))
