"""BLEU and chrF2 of translations, in a Markdown table with sacreBLEU's signatures.

For each set are given its name, the translations and the references, a line each; they are
compared as they stand.
"""

import argparse

from ..data.corpus.text_lines import read_text_lines
from ..errors import UserError
from .tables import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs=3,
        action="append",
        required=True,
        dest="sets",
        metavar=("NAME", "HYP", "REF"),
        help="may be repeated",
    )
    parser.add_argument(
        "--settings", metavar="TEXT", help="of the search, to stand before the signatures"
    )


def run(args: argparse.Namespace) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    metrics, signatures = (BLEU(), CHRF()), ""
    rows = []
    for name, hyp, ref in args.sets:
        # sacreBLEU's own command takes white space off the ends of lines.
        translations, references = ([s.rstrip() for s in read_text_lines(p)] for p in (hyp, ref))
        if len(translations) != len(references):
            raise UserError(
                f"{hyp} has {len(translations)} lines, {ref} {len(references)}: they must be of "
                "the same set"
            )
        scores = [metric.corpus_score(translations, [references]) for metric in metrics]
        figures = [f"{score.score:.2f}" for score in scores]
        rows.append((name, str(len(references)), *figures))
        pairs = zip(scores, metrics, strict=True)
        signatures = " ".join(f"{score.name}|{metric.get_signature()}" for score, metric in pairs)
    print(table(("set", "sentences", "BLEU", "chrF2"), rows, as_markdown=True))
    settings = f"{args.settings}; " if args.settings else ""
    print(f"\n{settings}{signatures}")
