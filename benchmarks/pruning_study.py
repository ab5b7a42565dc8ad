#!/usr/bin/env python
"""Compare ways to choose the heads that a transformer keeps, with equal numbers of updates.

All runs start from the same base, have the same number of updates with the same learning rates, and
differ in their seed (order of batches, dropout, sampled gates, random choices). Gates are learned
while the weights are tuned, and the closed heads are removed at the end. The other ways remove the
heads first and then tune what is left for all updates. "none" tunes the base with all its heads.

Every run has a folder; a finished one is not repeated, and an interrupted one resumes. The table
names the runs that are missing. `--print` only prints it.
"""

import argparse
import itertools
import json
import os
import shlex
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import common

WAYS = ("none", "gates", "gradient", "confidence", "random")
WITH_DATA = ("gradient", "confidence")


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Args:
        types: types of attention whose heads are chosen, such as ``encoder`` or
            ``encoder,decoder,cross``; empty for the base with all its heads.
        budget: number of heads to keep, or a price of open heads below 1 (``--l0-penalty``); 0 for
            the base with all its heads.
        way: one of ``WAYS``.
        seed: seed of the run.
    """

    types: str
    budget: float
    way: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        if self.way == "none":
            return f"none_{self.seed}"
        return f"{self.types.replace(',', '+')}_{self.budget:g}_{self.way}_{self.seed}"


def parse_args() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-bin", type=Path, required=True, help="data of prepare bitext")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint of a transformer")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--budgets",
        nargs="+",
        default=["encoder:16", "encoder:8", "encoder,decoder,cross:24"],
        metavar="TYPES:N",
        help="types of attention, and heads to keep or a price below 1 (default: %(default)s)",
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--fix", type=float, default=0.6, help="share of updates that learn gates")
    parser.add_argument("--max-tokens", type=int, default=8192, help="tokens of an update")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--gate-lr-scale", type=float, default=128)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--seconds", type=float, help="stop the runs after this time")
    parser.add_argument("--print", action="store_true", help="only print the table")
    return parser.parse_args()


def planned(args: argparse.Namespace) -> list[Run]:
    """Return all runs, those of the first seed first."""
    runs = []
    for seed in args.seeds:
        if "none" in args.ways:
            runs.append(Run("", 0, "none", seed))
        for text in args.budgets:
            types, _, budget = text.partition(":")
            for way in args.ways:
                is_price = 0 < float(budget) < 1  # only gates have a price
                if way != "none" and (way == "gates" or not is_price):
                    runs.append(Run(types, float(budget), way, seed))
    return runs


# --------------------------------------------------------------------------- one command


def call(words: list[object], log: Path) -> str:
    """Run a command in a forked copy of this process, which has imported fairseq already.

    Returns:
        its output, which is also appended to ``log``.

    Raises:
        RuntimeError: it failed.
    """
    text = [str(word) for word in words]
    begin = log.stat().st_size if log.exists() else 0
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number in (1, 2):
                os.dup2(stream, number)
            print("+", shlex.join(text), flush=True)
            status = run_here(text)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status or 0)
    _, status = os.waitpid(child, 0)
    with open(log, encoding="utf-8", errors="replace") as stream:
        stream.seek(begin)
        output = stream.read()
    if status:
        raise RuntimeError(f"{text[0]} failed; see {log}: {output[-300:]}")
    return output


def run_here(words: list[str]) -> int:
    """Run ``fairseq-train``, ``fairseq-generate`` or ``fairtale`` as their console scripts do."""
    sys.argv = words
    if words[0] == "fairtale":
        from fairtale.cli.main import main

        return main(words[1:])
    if words[0] == "fairseq-train":
        from fairseq_cli.train import cli_main
    else:
        from fairseq_cli.generate import cli_main
    cli_main()
    return 0


# --------------------------------------------------------------------------- one run


def train(args: argparse.Namespace, run: Run, folder: Path, base: Path, criterion: list) -> Path:
    """Tune ``base``; return the last checkpoint."""
    log = folder / "train.log"
    shape = shape_of(base, folder)
    words = [
        "fairseq-train", args.data_bin, "--user-dir", common.USER_DIR,
        "--task", "wmt16_translation", "--arch", "transformer_hcg", *shape,
        "--finetune-from-model", base, *criterion, "--label-smoothing", 0.1,
        "--dropout", args.dropout, "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)",
        "--lr", args.lr, "--lr-scheduler", "inverse_sqrt",
        "--warmup-updates", max(1, args.updates // 10), "--max-update", args.updates,
        "--max-tokens", args.max_tokens, "--required-batch-size-multiple", 1,
        "--eval-bleu-sentences", 0, "--validate-interval", 1000000,
        "--validate-interval-updates", max(1, args.updates // 5), "--no-epoch-checkpoints",
        "--save-interval-updates", args.updates, "--keep-interval-updates", 1,
        "--log-format", "json", "--log-interval", 50, "--num-workers", 0,
        "--seed", run.seed, "--save-dir", folder,
    ]  # fmt: skip
    words += ["--cpu"] * args.cpu + ["--bf16"] * (args.precision == "bf16")
    call(words, log)
    return folder / "checkpoint_last.pt"


def shape_of(checkpoint: Path, folder: Path) -> list[str]:
    """Return the options of a checkpoint's shape."""
    output = call(["fairtale", "transformer-options", checkpoint], folder / "steps.log")
    return output.splitlines()[1:]  # the first line is the command


def carry_out(args: argparse.Namespace, run: Run) -> dict:
    """Carry out a run; return its result."""
    folder = args.output / run.name
    folder.mkdir(parents=True, exist_ok=True)
    device = ["--cpu"] if args.cpu else []
    plain = ["--criterion", "label_smoothed_kl"]
    smaller = folder / "pruned.pt"
    prune = ["fairtale", "prune", "--output", smaller, "--types", run.types]
    began = time.time()
    if run.way == "none":
        final = train(args, run, folder, args.base, plain)
    elif run.way == "gates":
        fix = max(1, round(args.fix * args.updates))
        goal = ["--target-heads", int(run.budget)]
        if run.budget < 1:
            goal = ["--l0-penalty", run.budget]
        gated = ["--criterion", "l0_gated", *goal, "--gates-fix-update", fix]
        gated += ["--l0-warmup-updates", fix // 3, "--gated-attention", run.types]
        gated += ["--gate-lr-scale", args.gate_lr_scale]
        tuned = train(args, run, folder, args.base, gated)
        call(["fairtale", "prune", tuned, "--output", smaller, "--by", "gates", *device],
             folder / "steps.log")  # fmt: skip
        final = smaller
    else:
        choice = ["--heads", int(run.budget), "--by", run.way, "--seed", run.seed, *device]
        if run.way in WITH_DATA:
            choice += ["--data", args.data_bin, "--subset", "train", "--max-sentences", 1000]
        if not smaller.exists():
            call([*prune, *choice, args.base], folder / "steps.log")
        final = train(args, run, folder, smaller, plain)
    result = {"heads": heads_of(shape_of(final, folder)), "loss": last_loss(folder / "train.log")}
    result |= score(args, folder, final)
    result["seconds"] = round(time.time() - began)
    for path in folder.glob("checkpoint_*.pt"):
        path.unlink()  # the result stays, not the weights
    return result


def heads_of(words: list[str]) -> str:
    """Return the numbers of heads by type and layer.

    Args:
        words: what ``fairtale transformer-options`` prints.
    """
    given = dict(itertools.pairwise(words))
    texts = []
    for kind, side in (("encoder", "encoder"), ("decoder", "decoder"), ("cross", "decoder")):
        heads = given.get(f"--{kind}-layer-heads")
        full = ",".join([given[f"--{side}-attention-heads"]] * int(given[f"--{side}-layers"]))
        texts.append(f"{kind} {heads or full}")
    return "; ".join(texts)


def last_loss(log: Path) -> float:
    """Return the last validation loss in a log, in bits per token without smoothing."""
    from fairtale.data.training_log import parse_line

    found = None
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            entry = parse_line(line)
            if entry is not None and entry.kind == "valid":
                found = entry.stats["nll_loss"]
    if found is None:
        raise RuntimeError(f"{log}: no validation in this log")
    return found


def score(args: argparse.Namespace, folder: Path, checkpoint: Path) -> dict:
    """Return BLEU and chrF2 of the translations of the test set."""
    from sacrebleu.metrics import BLEU, CHRF

    log = folder / "test.log"
    log.unlink(missing_ok=True)
    words = [
        "fairseq-generate", args.data_bin, "--user-dir", common.USER_DIR, "--path", checkpoint,
        "--gen-subset", "test", "--beam", 4, "--lenpen", 0.6, "--max-len-a", 1.5,
        "--max-len-b", 10, "--max-tokens", 8192,
    ]  # fmt: skip
    call([*words, *(["--cpu"] if args.cpu else [])], log)
    references = args.data_bin / "text" / "test.ru"
    hypotheses = folder / "test.ru"
    call(["fairtale", "log", "outputs", log, "--keep-blank", "--lines-of", references,
          "--output", hypotheses], folder / "steps.log")  # fmt: skip
    texts = [path.read_text(encoding="utf-8").split("\n")[:-1] for path in (hypotheses, references)]
    bleu, chrf = BLEU(), CHRF()
    scores = [metric.corpus_score(texts[0], [texts[1]]).score for metric in (bleu, chrf)]
    return {"bleu": scores[0], "chrf": scores[1], "signature": str(bleu.get_signature())}


# --------------------------------------------------------------------------- all runs


def carry_out_all(args: argparse.Namespace, runs: list[Run]) -> None:
    """Carry out the runs that have no result, several at a time."""
    import fairseq.trainer  # noqa: F401  (imported once, before the forks)
    import fairseq_cli.generate
    import fairseq_cli.train  # noqa: F401

    ends = time.time() + args.seconds if args.seconds else None
    waiting = [run for run in runs if not (args.output / run.name / "result.json").exists()]
    running: dict[int, Run] = {}
    while waiting or running:
        late = ends is not None and time.time() > ends
        if late:
            for child in running:
                os.killpg(child, signal.SIGKILL)
            waiting = []
        while waiting and len(running) < args.jobs:
            run = waiting.pop(0)
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                os._exit(work(args, run))
            running[child] = run
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            run = running.pop(child)
            print(f"{run.name}: {'done' if status == 0 else 'failed'}", flush=True)
        else:
            time.sleep(0.2)


def work(args: argparse.Namespace, run: Run) -> int:
    """Carry out one run in this process, and write its result; return the exit status."""
    try:
        result = carry_out(args, run)
    except Exception as error:
        print(f"{run.name}: {error}", file=sys.stderr, flush=True)
        return 1
    path = args.output / run.name / "result.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.rename(path)
    return 0


def table(args: argparse.Namespace, runs: list[Run]) -> str:
    """Return the table: mean, and lowest and highest value, over the seeds."""
    import check_page

    rows, missing, signature = [], [], ""
    key = lambda run: (run.types, -run.budget, WAYS.index(run.way))  # noqa: E731
    for (types, budget, way), group in itertools.groupby(
        sorted(runs, key=key), key=lambda run: (run.types, run.budget, run.way)
    ):
        results, seeds = [], []
        for run in group:
            path = args.output / run.name / "result.json"
            if not path.exists():
                missing.append(run.name)
                continue
            results.append(json.loads(path.read_text(encoding="utf-8")))
            seeds.append(run.seed)
        if not results:
            continue
        signature = results[0]["signature"]
        cells = [spread([found[name] for found in results], digits)
                 for name, digits in (("loss", 3), ("bleu", 2), ("chrf", 2))]  # fmt: skip
        kept = "all" if way == "none" else f"{types} {'price ' if budget < 1 else ''}{budget:g}"
        rows.append([kept, way, len(seeds), *cells, results[0]["heads"]])
    header = ["heads kept", "chosen by", "seeds", "validation loss", "test BLEU", "test chrF2",
              "heads of the first seed"]  # fmt: skip
    text = check_page.table(header, rows)
    text += f"\n\n{args.updates} updates of at most {args.max_tokens:,} tokens from {args.base}. "
    text += f"Mean (lowest to highest) over the seeds. BLEU: {signature}, beam 4. "
    text += f"Missing: {', '.join(missing) or 'none'}."
    return text


def spread(values: list[float], digits: int) -> str:
    """Return mean, lowest and highest value."""
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Carry out what is missing, and print the table."""
    args = parse_args()
    runs = planned(args)
    if not args.print:
        args.output.mkdir(parents=True, exist_ok=True)
        carry_out_all(args, runs)
    print(table(args, runs))


if __name__ == "__main__":
    main()
