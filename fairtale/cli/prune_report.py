"""Compare pruned translation models with the unpruned one: size, BLEU, chrF, speed.

Writes a Markdown table to --out and a figure beside it. All models translate the same
batches of --subset on this device. For the speed they take turns, round by round, so that a
drift of the machine meets all of them; sentences/s is the median over the rounds, and so is
the ratio to the unpruned model within each round.

Text is compared as a reader sees it: the task's own tokenizer makes it (wmt16_translation),
or --remove-bpe and --tokenizer do, as in fairseq-generate.
"""

import os
import statistics
import time
from dataclasses import dataclass, field

from ..data.corpus.text_lines import read_text_lines
from ..errors import UserError
from ..plugin import register
from ..pruning.parts import HEAD_TYPES, type_of
from .argument_types import positive_int
from .devices import find_device, to_device
from .files import whole_file
from .optional import require
from .progress import progress_bar


def add_arguments(parser):
    parser.add_argument("base", metavar="BASE.pt", help="the unpruned model")
    parser.add_argument("pruned", nargs="+", metavar="PRUNED.pt")
    parser.add_argument("--data", required=True, metavar="DATA_BIN")
    parser.add_argument("--subset", default="test", help="split of it (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="REPORT.md")
    parser.add_argument("--figure", metavar="PNG", help="(default: REPORT.png)")
    parser.add_argument("--names", nargs="+", metavar="N", help="of all models, for the table")
    parser.add_argument("--ref", metavar="FILE", help="references as plain text, a line each")
    parser.add_argument("--remove-bpe", metavar="KIND", help="subword_nmt or sentencepiece")
    parser.add_argument("--tokenizer", help="of fairseq, that undoes tokenisation: moses")
    search = parser.add_argument_group("translation")
    search.add_argument("--beam", type=positive_int, default=5, help="(default: %(default)s)")
    search.add_argument("--lenpen", type=float, default=1.0, help="(default: %(default)s)")
    search.add_argument(
        "--max-len-a", type=float, default=1.5, help="tokens: a * source + b (default: %(default)s)"
    )
    search.add_argument("--max-len-b", type=int, default=10, help="(default: %(default)s)")
    search.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda if there is one)")
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--batch-size", type=positive_int, default=32, help="sentences (default: %(default)s)"
    )
    speed.add_argument("--rounds", type=positive_int, default=5, help="(default: %(default)s)")
    speed.add_argument(
        "--timed-sentences",
        type=positive_int,
        default=128,
        help="translated in each round, of mixed length (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="draws them (default: 1)")


@dataclass
class Entrant:
    """A model and what was found about it."""

    name: str
    path: str
    model: object
    generator: object = None
    heads: dict = field(default_factory=dict)  # kind -> number that is open
    units: int = 0
    parameters: int = 0
    megabytes: float = 0.0
    bleu: float = 0.0
    chrf: float = 0.0
    seconds: list = field(default_factory=list)


def run(args):
    require("matplotlib", extra="plots")
    paths = [args.base, *args.pruned]
    names = _names(args, paths)
    figure_path = _figure_path(args, paths)
    register()
    import torch

    device = find_device(args.device)
    task, entrants = _load(args, paths, names, device)
    batches, timed = _batches(args, task, entrants)
    references = _references(args, task, batches)
    for entrant in entrants:
        _score(args, task, entrant, batches, references, device)
    _race(args, task, entrants, timed, device)
    num_timed = sum(map(len, timed))
    notes = _notes(args, task, device, torch.get_num_threads(), len(references), num_timed)
    lines = [f"# {os.path.basename(args.base)} and what is left of it", ""]
    lines += [*_table(entrants, num_timed), "", *notes, ""]
    link = os.path.relpath(figure_path, os.path.dirname(os.path.abspath(args.out)))
    lines += [f"![heads, BLEU and speed]({link})", ""]
    with whole_file(figure_path, "wb") as stream:
        _draw(entrants, num_timed).savefig(stream, format="png", dpi=120)
    with whole_file(args.out) as stream:
        stream.write("\n".join(lines))
    print("\n".join(lines[2:-2]))
    print(f"-> {args.out}, {figure_path}")


def _names(args, paths):
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file; name the checkpoint of a translation model")
    if not os.path.isdir(args.data.split(os.pathsep)[0]):
        raise UserError(f"--data {args.data}: no such folder")
    if args.names and len(args.names) != len(paths):
        raise UserError(f"--names: {len(args.names)} names for {len(paths)} models")
    names = args.names or [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if len(set(names)) < len(names):
        names = args.names or paths
    if len(set(names)) < len(names):
        raise UserError(f"--names: the models need different names, not {' '.join(names)}")
    return names


def _figure_path(args, paths):
    """Where the figure goes, which must not be where anything else is."""
    figure_path = args.figure or os.path.splitext(args.out)[0] + ".png"
    out, figure = os.path.realpath(args.out), os.path.realpath(figure_path)
    if out == figure:
        raise UserError(
            f"--out {args.out}: the figure would go there too; end the report's name in .md, or "
            "say --figure"
        )
    read = {os.path.realpath(path) for path in [*paths, *([args.ref] if args.ref else [])]}
    for option, path, real in (("--out", args.out, out), ("--figure", figure_path, figure)):
        if real in read:
            raise UserError(f"{option} {path}: would replace a file that is read; name another")
    return figure_path


# ----------------------------------------------------------------------- models and data


def _load(args, paths, names, device):
    from fairseq import checkpoint_utils
    from fairseq.dataclass.configs import GenerationConfig

    from ..compat import read_checkpoint
    from ..pruning.checkpoint import check_dictionaries
    from ..pruning.removal import gate_values, head_counts, unit_counts

    # validation's own BLEU would need tokenizers that are of no use here
    overrides = {"data": args.data, "eval_bleu": False, "eval_bleu_sentences": 0}
    options = GenerationConfig(
        beam=args.beam, lenpen=args.lenpen, max_len_a=args.max_len_a, max_len_b=args.max_len_b
    )
    task, entrants = None, []
    for name, path in zip(names, paths, strict=True):
        weights = read_checkpoint(path)["model"]
        if "encoder.embed_tokens.weight" not in weights:
            raise UserError(f"{path}: no transformer with an encoder and a decoder")
        if task is not None:
            check_dictionaries(task, weights, path, args.data)
        (model,), cfg, task = _load_one(checkpoint_utils, path, overrides, task, weights, args)
        gates = gate_values(model)
        entrant = Entrant(name, path, model.to(device).eval())
        for key, count in head_counts(model).items():
            kind = type_of(key)
            count = int((gates[key] > 0).sum()) if key in gates else count
            entrant.heads[kind] = entrant.heads.get(kind, 0) + count
        entrant.units = sum(unit_counts(model).values())
        entrant.parameters = sum(p.numel() for p in model.parameters())
        entrant.megabytes = os.path.getsize(path) / 1e6
        model.prepare_for_inference_(cfg)
        entrant.generator = task.build_generator([model], options)
        entrants.append(entrant)
    return task, entrants


def _load_one(checkpoint_utils, path, overrides, task, weights, args):
    from fairseq import tasks

    from ..pruning.checkpoint import check_dictionaries

    if task is None:
        state = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
        task = tasks.setup_task(state["cfg"].task, from_checkpoint=True)
        check_dictionaries(task, weights, path, args.data)
    return checkpoint_utils.load_model_ensemble_and_task([path], overrides, task)


def _batches(args, task, entrants):
    """Batches of sentence numbers: of all sentences, and of those that are timed."""
    import numpy as np
    from fairseq import utils

    task.load_dataset(args.subset)
    dataset = task.dataset(args.subset)
    indices = np.arange(len(dataset))
    longest = utils.resolve_max_positions(
        task.max_positions(), *(entrant.model.max_positions() for entrant in entrants)
    )
    _, ignored = dataset.filter_indices_by_size(indices, longest)
    if len(ignored):
        raise UserError(
            f"--subset {args.subset}: sentence {ignored[0]} is longer than the models can take "
            f"{longest}, and {len(ignored) - 1} others; use another subset"
        )
    drawn = np.random.default_rng(args.seed).permutation(indices)[: args.timed_sentences]

    def cut(chosen):
        order = chosen[np.argsort(dataset.num_tokens_vec(chosen), kind="stable")]
        return [order[i : i + args.batch_size] for i in range(0, len(order), args.batch_size)]

    return cut(indices), cut(drawn)


def _plain_text(args, task):
    """A function that makes plain text of a sentence's tokens."""
    if hasattr(task, "plain_text") and not (args.remove_bpe or args.tokenizer):
        return task.plain_text
    from argparse import Namespace

    from fairseq.data import encoders

    tokenizer = None
    if args.tokenizer:
        languages = {"source_lang": task.cfg.source_lang, "target_lang": task.cfg.target_lang}
        options = Namespace(tokenizer=args.tokenizer, **languages)
        tokenizer = encoders.build_tokenizer(options)

    def plain_text(tokens, unknown):
        dictionary = task.target_dictionary
        text = dictionary.string(tokens.int().cpu(), args.remove_bpe, unk_string=unknown)
        return text if tokenizer is None else tokenizer.decode(text)

    return plain_text


def _references(args, task, batches):
    """References by sentence number."""
    from fairseq import utils

    dataset, pad = task.dataset(args.subset), task.target_dictionary.pad()
    numbers = [int(i) for batch in batches for i in batch]
    if args.ref:
        lines = list(read_text_lines(args.ref))
        if len(lines) != len(numbers):
            raise UserError(
                f"--ref {args.ref}: {len(lines)} lines for {len(numbers)} sentences of "
                f"{args.subset}; name the references of this set"
            )
        return dict(enumerate(lines))
    if dataset.tgt is None:
        raise UserError(f"--subset {args.subset}: has no references; name them with --ref")
    text = _plain_text(args, task)
    # what is unknown must not match itself
    return {i: text(utils.strip_pad(dataset.tgt[i], pad), "UNKNOWNREF") for i in numbers}


# -------------------------------------------------------------------------- measurement


def _translate(task, entrant, batch, subset, device):
    import torch

    dataset = task.dataset(subset)
    sample = to_device(dataset.collater([dataset[int(i)] for i in batch]), device)
    with torch.no_grad():
        hypotheses = task.inference_step(entrant.generator, [entrant.model], sample)
    return zip(sample["id"].tolist(), hypotheses, strict=True)


def _score(args, task, entrant, batches, references, device):
    from sacrebleu.metrics import BLEU, CHRF

    text, found = _plain_text(args, task), {}
    with progress_bar(len(references), "sent", entrant.name) as bar:
        for batch in batches:
            for number, hypotheses in _translate(task, entrant, batch, args.subset, device):
                found[number] = text(hypotheses[0]["tokens"], "UNKNOWNHYP")
            bar.update(len(batch))
    order = sorted(references)
    candidates, wanted = [found[i] for i in order], [[references[i] for i in order]]
    entrant.bleu = BLEU().corpus_score(candidates, wanted).score
    entrant.chrf = CHRF().corpus_score(candidates, wanted).score


def _race(args, task, entrants, timed, device):
    """Time the models in turns. Scoring has warmed them up."""
    import torch

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with progress_bar(args.rounds, "round", "speed") as bar:
        for number in range(args.rounds):
            turn = number % len(entrants)
            for entrant in entrants[turn:] + entrants[:turn]:
                wait()
                start = time.perf_counter()
                for batch in timed:
                    _translate(task, entrant, batch, args.subset, device)
                wait()
                entrant.seconds.append(time.perf_counter() - start)
            bar.update(1)


# ------------------------------------------------------------------------------- report


def _speed(entrant, num_sentences):
    return num_sentences / statistics.median(entrant.seconds)


def _faster(entrant, base):
    return statistics.median(b / a for a, b in zip(entrant.seconds, base.seconds, strict=True))


def _table(entrants, num_sentences):
    base = entrants[0]
    header = ["model", *(f"{kind} heads" for kind in HEAD_TYPES), "FFN units", "parameters", "MB"]
    header += ["BLEU", "chrF2", "sentences/s", "faster by"]
    rows = [
        [
            entrant.name,
            *(str(entrant.heads.get(kind, 0)) for kind in HEAD_TYPES),
            f"{entrant.units:,}",
            f"{entrant.parameters:,}",
            f"{entrant.megabytes:.1f}",
            f"{entrant.bleu:.2f}",
            f"{entrant.chrf:.2f}",
            f"{_speed(entrant, num_sentences):.1f}",
            f"{_faster(entrant, base):.2f}" if entrant is not base else "",
        ]
        for entrant in entrants
    ]
    dashes = ["---"] + ["---:"] * (len(header) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in (header, dashes, *rows)]


def _notes(args, task, device, threads, num_sentences, num_timed):
    import platform

    import torch
    from sacrebleu.metrics import BLEU, CHRF

    bleu, chrf = BLEU(), CHRF()
    for metric in (bleu, chrf):
        metric.corpus_score(["a"], [["a"]])  # a signature needs a number of references
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_processor() or platform.machine()}, {threads} threads"
    return [
        f"- {args.subset} of {args.data}: {num_sentences} sentences, "
        f"references {'of ' + args.ref if args.ref else 'detokenised from the data'}",
        f"- BLEU {bleu.get_signature()}",
        f"- chrF2 {chrf.get_signature()}",
        f"- beam {args.beam}, length penalty {args.lenpen:g}, at most {args.max_len_a:g} x source "
        f"+ {args.max_len_b} tokens, batches of {args.batch_size} sentences",
        f"- speed: fp32, {where}; {num_timed} sentences a round, medians of {args.rounds} rounds, "
        "models in turns",
        "- heads of gated models: those whose gate is open; MB: size of the file, with the "
        "optimizer's state if it is there",
    ]


def _processor():
    try:
        with open("/proc/cpuinfo") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if "model name" in line]
    except OSError:
        return None
    return names[0] if names else None


def _draw(entrants, num_sentences):
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
    for panel, title, values, form in (
        (bleu, "BLEU", [entrant.bleu for entrant in entrants], "%.1f"),
        (speed, "sentences/s", [_speed(entrant, num_sentences) for entrant in entrants], "%.1f"),
    ):
        bars = panel.barh(names, values, color=["C7"] + ["C0"] * (len(names) - 1))
        panel.bar_label(bars, fmt=form, padding=3, fontsize="small")
        panel.margins(x=0.15)
        panel.set_title(title)
    return figure
