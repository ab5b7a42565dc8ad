"""Metrics of replies, and the replies in the output of fairseq's commands.

To add a metric, add a field to :class:`Scores`, its heading to :data:`HEADS`, and its value in
:meth:`DialogScorer.score`.
"""

import re
import statistics
from collections import Counter
from typing import NamedTuple

from ...errors import UserError
from ..corpus.text_lines import read_text_lines
from ..output_log import parse_output

_GENERATED = re.compile(r"[SH]-\d+\t")


class Scores(NamedTuple):
    """Scores of a list of replies; BLEU, chrF, distinct and F1 in percent, length in words."""

    bleu: float
    chrf: float
    distinct_1: float
    distinct_2: float
    mean_length: float
    f1: float


HEADS = ("BLEU", "chrF", "distinct-1", "distinct-2", "length", "F1")


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
