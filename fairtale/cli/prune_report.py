"""Compare pruned translation models with the unpruned model: size, BLEU, chrF, speed.

The verb writes a Markdown table to --output and a figure beside it. All models translate the same
batches of --subset on this device. For the speed, the models alternate in rounds, so that changes
of the machine's speed affect all of them. The table gives medians over the rounds: of sentences/s,
and of the ratio to the unpruned model within a round.

BLEU and chrF compare detokenised text, which is made by the tokenizer of the task
(wmt16_translation), or by --remove-bpe and --tokenizer as in fairseq-generate.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.corpus.text_lines import read_text_lines
from ..errors import UserError
from ..plugin import register
from ..pruning.parts import HEAD_TYPES
from .argument_types import positive_int
from .devices import find_device
from .files import whole_file
from .optional import require
from .progress import progress_bar

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from ..pruning.comparison import Batches, Entrant, PlainText

RENAMED_OPTIONS = {"--out": "--output", "--device": "--cpu"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    default = "(default: %(default)s)"
    parser.add_argument("base", metavar="BASE.pt", help="checkpoint of the unpruned model")
    parser.add_argument("pruned", nargs="+", metavar="PRUNED.pt", help="checkpoints to compare")
    parser.add_argument("--data", required=True, metavar="DATA_BIN", help="binarised data")
    parser.add_argument("--subset", default="test", help=f"split of --data {default}")
    parser.add_argument("--output", required=True, metavar="REPORT.md", help="report to write")
    parser.add_argument("--figure", metavar="PNG", help="figure to write (default: REPORT.png)")
    parser.add_argument(
        "--names", nargs="+", metavar="N", help="names of all models in the table, one for each"
    )
    parser.add_argument(
        "--ref", metavar="FILE", help="references as plain text (default: text of the data)"
    )
    parser.add_argument(
        "--remove-bpe", metavar="KIND", help="pieces to join: subword_nmt or sentencepiece"
    )
    parser.add_argument("--tokenizer", help="fairseq's tokenizer for detokenisation, e.g. moses")
    search = parser.add_argument_group("translation")
    search.add_argument("--beam", type=positive_int, default=5, help=f"beam size {default}")
    search.add_argument("--lenpen", type=float, default=1.0, help=f"length penalty {default}")
    search.add_argument(
        "--max-len-a",
        type=float,
        default=1.5,
        help=f"A of the maximum length of a translation, A x source + B {default}",
    )
    search.add_argument("--max-len-b", type=int, default=10, help=f"B of that length {default}")
    search.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--batch-size", type=positive_int, default=32, help=f"sentences of a batch {default}"
    )
    speed.add_argument(
        "--rounds", type=positive_int, default=5, help=f"number of timed rounds {default}"
    )
    speed.add_argument(
        "--timed-sentences",
        type=positive_int,
        default=128,
        help=f"sentences of mixed lengths that are translated in each round {default}",
    )
    speed.add_argument(
        "--seed",
        type=int,
        default=1,
        help=f"random seed for choosing the timed sentences {default}",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    require("matplotlib", extra="plots")
    paths = _named_paths(args)
    figure_path = _figure_path(args, list(paths.values()))
    register()
    from ..pruning import comparison

    device = find_device(args.cpu)
    search = comparison.SearchOptions(args.beam, args.lenpen, args.max_len_a, args.max_len_b)
    task, entrants = comparison.load_entrants(paths, args.data, search, device)
    task.load_dataset(args.subset)
    dataset = task.dataset(args.subset)
    comparison.check_lengths(dataset, args.subset, task, entrants)
    batches, timed = comparison.batches_of(
        dataset, args.batch_size, args.timed_sentences, args.seed
    )
    plain_text = comparison.plain_text_of(task, args.remove_bpe, args.tokenizer)
    references = _references(args, task, dataset, plain_text)
    _score(task, entrants, dataset, batches, references, plain_text, device)
    length = comparison.even_length(dataset, entrants)
    comparison.prepare_even_rounds(task, entrants, search, length)
    _time_rounds(task, entrants, dataset, timed, args.rounds, device)

    num_timed = sum(map(len, timed))
    lines = [f"# {os.path.basename(args.base)} and its pruned models", ""]
    lines += [*_table(entrants, num_timed, length), ""]
    lines += _notes(args, device, len(references), num_timed, length)
    link = os.path.relpath(figure_path, os.path.dirname(os.path.abspath(args.output)))
    figure = ["", f"![heads, BLEU and speed]({link})", ""]
    with whole_file(figure_path, "wb") as stream:
        _draw(entrants, num_timed).savefig(stream, format="png", dpi=120)
    with whole_file(args.output) as stream:
        stream.write("\n".join(lines + figure))
    print("\n".join([*lines[2:], ""]))
    print(f"-> {args.output}, {figure_path}")


def _named_paths(args: Namespace) -> dict[str, str]:
    """Return the checkpoints of the models by their names.

    Raises:
        UserError: a file or the data is missing, or the names do not match the models.
    """
    paths = [args.base, *args.pruned]
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file; give the checkpoint of a translation model")
    if not os.path.isdir(args.data.split(os.pathsep)[0]):
        raise UserError(f"--data {args.data}: no such folder")
    if args.names and len(args.names) != len(paths):
        raise UserError(f"--names: {len(args.names)} names for {len(paths)} models")
    names = args.names or [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if len(set(names)) < len(names):
        names = args.names or paths
    if len(set(names)) < len(names):
        raise UserError(f"--names: the models need different names, not {' '.join(names)}")
    return dict(zip(names, paths, strict=True))


def _figure_path(args: Namespace, paths: list[str]) -> str:
    """Return the path of the figure, and check that no output replaces another file.

    Raises:
        UserError: the report or the figure would replace each other or an input.
    """
    figure_path: str = args.figure or os.path.splitext(args.output)[0] + ".png"
    output, figure = os.path.realpath(args.output), os.path.realpath(figure_path)
    if output == figure:
        raise UserError(
            f"--output {args.output}: the figure would have the same name; end the name of the "
            "report with .md, or give --figure"
        )
    read = {os.path.realpath(path) for path in [*paths, *([args.ref] if args.ref else [])]}
    for option, path, real in (
        ("--output", args.output, output),
        ("--figure", figure_path, figure),
    ):
        if real in read:
            raise UserError(f"{option} {path}: would replace an input file; give another name")
    return figure_path


# ------------------------------------------------------------------------- measurement


def _references(args: Namespace, task: Any, dataset: Any, plain_text: PlainText) -> dict[int, str]:
    """Return the references by sentence number, from ``--ref`` or from the data.

    Raises:
        UserError: there are no references, or their number is not that of the sentences.
    """
    from ..pruning.comparison import references_of

    if args.ref:
        lines = list(read_text_lines(args.ref))
        if len(lines) != len(dataset):
            raise UserError(
                f"--ref {args.ref}: {len(lines)} lines for {len(dataset)} sentences of "
                f"{args.subset}; give the references of this set"
            )
        return dict(enumerate(lines))
    if dataset.tgt is None:
        raise UserError(f"--subset {args.subset}: has no references; give them with --ref")
    return references_of(dataset, task.target_dictionary.pad(), plain_text)


def _score(
    task: Any,
    entrants: list[Entrant],
    dataset: Any,
    batches: Batches,
    references: dict[int, str],
    plain_text: PlainText,
    device: torch.device,
) -> None:
    """Translate all sentences with each model, and store its BLEU and chrF."""
    from ..pruning.comparison import UNKNOWN_TRANSLATION, score, translate

    for entrant in entrants:
        found, entrant.written = {}, 0
        with progress_bar(len(references), "sent", entrant.name) as bar:
            for batch in batches:
                for number, hypotheses in translate(task, entrant, dataset, batch, device):
                    tokens = hypotheses[0]["tokens"]
                    found[number] = plain_text(tokens, UNKNOWN_TRANSLATION)
                    entrant.written += len(tokens)
                bar.update(len(batch))
        score(entrant, found, references)


def _time_rounds(
    task: Any,
    entrants: list[Entrant],
    dataset: Any,
    timed: Batches,
    num_rounds: int,
    device: torch.device,
) -> None:
    """Time the models in alternating rounds; scoring has warmed them up."""
    from ..pruning.comparison import time_round, translate

    def translate_all(entrant: Entrant, even: bool) -> None:
        for batch in timed:
            translate(task, entrant, dataset, batch, device, even)

    with progress_bar(num_rounds, "round", "speed") as bar:
        for number in range(num_rounds):
            for even in (False, True):
                time_round(number, entrants, partial(translate_all, even=even), device, even)
            bar.update(1)


# ------------------------------------------------------------------------------- report


def _table(entrants: list[Entrant], num_sentences: int, length: int) -> list[str]:
    """Return the lines of the Markdown table with one row for each model.

    Args:
        entrants: the models, the unpruned one first.
        num_sentences: number of sentences in a timed round.
        length: number of tokens of each translation in the even rounds.
    """
    from tabulate import tabulate

    base = entrants[0]
    header = ["model", *(f"{kind} heads" for kind in HEAD_TYPES), "FFN units", "parameters", "MB"]
    header += ["BLEU", "chrF2", "tokens written", "sentences/s", "faster by"]
    header += [f"sentences/s at {length} tokens", f"faster at {length} tokens by"]
    rows = [
        [
            entrant.name,
            *(str(entrant.heads.get(kind, 0)) for kind in HEAD_TYPES),
            f"{entrant.units:,}",
            f"{entrant.parameters:,}",
            f"{entrant.megabytes:.1f}",
            f"{entrant.bleu:.2f}",
            f"{entrant.chrf:.2f}",
            f"{entrant.written:,}",
            *(
                cell
                for even in (False, True)
                for cell in (
                    f"{entrant.speed(num_sentences, even):.1f}",
                    f"{entrant.faster_than(base, even):.2f}" if entrant is not base else "",
                )
            ),
        ]
        for entrant in entrants
    ]
    align = ["left"] + ["right"] * (len(header) - 1)
    # The cells are formatted text, which tabulate must not parse as numbers.
    table = tabulate(rows, header, "pipe", colalign=align, disable_numparse=True)
    return table.splitlines()


def _notes(
    args: Namespace, device: torch.device, num_sentences: int, num_timed: int, length: int
) -> list[str]:
    """Return the settings that the numbers depend on, as a Markdown list."""
    import platform

    import torch
    from sacrebleu.metrics import BLEU, CHRF

    bleu, chrf = BLEU(), CHRF()
    for metric in (bleu, chrf):
        metric.corpus_score(["a"], [["a"]])  # the signature contains the number of references
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return [
        f"- {args.subset} of {args.data}: {num_sentences} sentences, "
        f"references {'of ' + args.ref if args.ref else 'detokenised from the data'}",
        f"- BLEU {bleu.get_signature()}",
        f"- chrF2 {chrf.get_signature()}",
        f"- beam {args.beam}, length penalty {args.lenpen:g}, at most {args.max_len_a:g} x source "
        f"+ {args.max_len_b} tokens, batches of {args.batch_size} sentences",
        f"- speed: fp32, {where}; {num_timed} sentences a round, medians of {args.rounds} "
        "alternating rounds",
        "- a model that writes more is slower, whatever its size: compare the tokens written, or "
        f"the speed of rounds in which each translation has exactly {length} tokens, which is the "
        f"median of {args.subset}",
        "- heads of gated models: those whose gate is open; MB: size of the file, including the "
        "optimizer state if there is one",
    ]


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if "model name" in line]
    except OSError:
        return None
    return names[0] if names else None


def _draw(entrants: list[Entrant], num_sentences: int) -> Figure:
    """Draw bars of the heads, BLEU and speed of all models."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.6 + 0.45 * len(entrants)), layout="constrained")
    FigureCanvasAgg(figure)
    heads, bleu, speed = figure.subplots(1, 3, sharey=True)
    names = [entrant.name for entrant in entrants]
    left = [0] * len(entrants)
    for kind in HEAD_TYPES:
        widths = [entrant.heads.get(kind, 0) for entrant in entrants]
        heads.barh(names, widths, left=left, label=kind)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    heads.legend(fontsize="small")
    heads.set_title("heads")
    heads.invert_yaxis()  # the unpruned model on top
    for panel, title, values in (
        (bleu, "BLEU", [entrant.bleu for entrant in entrants]),
        (speed, "sentences/s", [entrant.speed(num_sentences) for entrant in entrants]),
    ):
        bars = panel.barh(names, values, color=["C7"] + ["C0"] * (len(names) - 1))
        panel.bar_label(bars, fmt="%.1f", padding=3, fontsize="small")
        panel.margins(x=0.15)
        panel.set_title(title)
    return figure
