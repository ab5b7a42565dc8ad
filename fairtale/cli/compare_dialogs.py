"""Compare dialog models in one Markdown table: bits per response token, figures of their replies.

For each model are given its name, what fairseq-generate has printed with it, and the log of
fairseq-validate in the simple format (- where there is none: an insertion model's loss is no
probability of the response). The figures are those of `fairtale score-dialog`: BLEU, chrF,
distinct-1/2, length in words and F1 of each model's first replies.
"""

import argparse

from ..data.corpus.text_lines import read_text_lines
from ..data.training_log import last_validation
from ..errors import UserError
from .score_dialog import DialogScorer, Scores, read_candidates
from .tables import table

_HEADS = ("BLEU", "chrF", "distinct-1", "distinct-2", "length", "F1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "references", metavar="REF", help="responses that people wrote, as for score-dialog"
    )
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "REPLIES", "LOG"),
        help="may be repeated",
    )
    parser.add_argument("--subset", help="of the validation in LOG (default: any)")


def run(args: argparse.Namespace) -> None:
    references = [line.split("\t")[-1] for line in read_text_lines(args.references)]
    scorer = DialogScorer("13a")
    rows = []
    for name, path, log in args.model:
        candidates = read_candidates(path, None)
        if len(candidates) != len(references):
            raise UserError(
                f"{path} has replies to {len(candidates)} dialogs, {args.references} has "
                f"{len(references)} references: they must be of the same set"
            )
        replies = [group[0] for group in candidates]
        bits = "-" if log == "-" else f"{last_validation(log, args.subset)['nll_loss']:g}"
        scores: Scores = scorer.score(replies, references)
        rows.append((name, bits, *(f"{value:.2f}" for value in scores)))
    print(table(("model", "bits/token", *_HEADS), rows, as_markdown=True))
    num_empty = sum(not reply.strip() for reply in replies)
    print(f"{len(references)} dialogs, {num_empty} empty replies")
    print(scorer.signature(len(candidates[0])))
