"""Compare dialog models in one Markdown table: bits per response token, and scores of replies.

For each model give --model NAME REPLIES LOG: its name, the output of fairseq-generate, and the log
of fairseq-validate --log-format simple. LOG may be - if there is none, as for
mask-predict, whose loss is not a probability of the response. The scores are those of `fairtale
score-dialog` for the first reply to each dialog: BLEU, chrF, distinct-1/2, length in words and F1.
"""

import argparse

from ..data.corpus.text_lines import read_text_lines
from ..data.dialog.reply_metrics import HEADS, DialogScorer, read_candidates
from ..data.training_log import last_validation
from ..errors import UserError
from .tables import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "references", metavar="REF", help="reference responses, as for score-dialog"
    )
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "REPLIES", "LOG"),
        help="a model, its replies, and its validation log; may be repeated",
    )
    parser.add_argument("--subset", help="validation subset to read from LOG (default: any)")


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    references = [line.split("\t")[-1] for line in read_text_lines(args.references)]
    scorer = DialogScorer("13a")
    rows, num_empty = [], []
    for name, path, log in args.model:
        candidates = read_candidates(path, None)
        if len(candidates) != len(references):
            raise UserError(
                f"{path} has replies to {len(candidates)} dialogs, {args.references} has "
                f"{len(references)} references: both must belong to the same dialogs"
            )
        replies = [group[0] for group in candidates]
        bits = "-" if log == "-" else f"{last_validation(log, args.subset)['nll_loss']:g}"
        scores = scorer.score(replies, references)
        num_empty.append(f"{name} {sum(not reply.strip() for reply in replies)}")
        rows.append((name, bits, *(f"{value:.2f}" for value in scores)))
    print(table(("model", "bits/token", *HEADS), rows, as_markdown=True))
    print(f"{len(references)} dialogs, empty replies: {', '.join(num_empty)}")
    print(scorer.signature(len(candidates[0])))
