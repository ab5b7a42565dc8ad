"""Print BLEU and chrF2 of translations as a Markdown table with sacreBLEU's signatures.

For each test set give --set NAME HYP REF: its name, a file of translations and a file of
references, both with one sentence a line. The lines are compared without further processing.
"""

import argparse

from ..data.corpus.text_lines import read_text_lines
from ..errors import UserError
from .tables import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--set",
        nargs=3,
        action="append",
        required=True,
        dest="sets",
        metavar=("NAME", "HYP", "REF"),
        help="a test set, its translations and its references; may be repeated",
    )
    parser.add_argument(
        "--settings", metavar="TEXT", help="settings of the search, to print before the signatures"
    )


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    from sacrebleu.metrics import BLEU, CHRF

    metrics, signatures = (BLEU(), CHRF()), ""
    rows = []
    for name, hyp, ref in args.sets:
        # Strip white space at the ends of lines, as sacreBLEU's own command does.
        translations, references = ([s.rstrip() for s in read_text_lines(p)] for p in (hyp, ref))
        if len(translations) != len(references):
            raise UserError(
                f"{hyp} has {len(translations)} lines, {ref} has {len(references)}: both must "
                "belong to the same test set"
            )
        scores = [metric.corpus_score(translations, [references]) for metric in metrics]
        figures = [f"{score.score:.2f}" for score in scores]
        rows.append((name, str(len(references)), *figures))
        pairs = zip(scores, metrics, strict=True)
        signatures = " ".join(f"{score.name}|{metric.get_signature()}" for score, metric in pairs)
    print(table(("set", "sentences", "BLEU", "chrF2"), rows, as_markdown=True))
    settings = f"{args.settings}; " if args.settings else ""
    print(f"\n{settings}{signatures}")
