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

from ..data.corpus.text_lines import read_text_lines
from ..data.dialog.reply_metrics import HEADS, DialogScorer, Scores, read_candidates
from ..errors import UserError
from .argument_types import positive_int
from .tables import table


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


def _print_rows(rows: dict[str, Scores], as_table: bool) -> None:
    cells = [(name, *(f"{value:.2f}" for value in scores)) for name, scores in rows.items()]
    print(table(("reply", *HEADS), cells, as_table))
