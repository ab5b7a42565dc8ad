"""Sample continuations of the prompts in a file, several for each prompt.

Each line of the file is a prompt: the beginning of a story, or the turns of a dialog separated by
tabs. The texts are printed; --output also writes them as JSON lines. The same seed gives the same
texts. Those of a prompt do not change if other prompts are added to the file or removed.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ..data.corpus.text_lines import read_text_lines
from ..errors import UserError
from ..plugin import register
from .argument_types import positive_int
from .decoding_options import add_decoding_options, add_loading_options, decoding_options
from .files import whole_file
from .progress import progress_bar

_MOST_SAMPLES = 1_000_000

if TYPE_CHECKING:
    from ..generation.batch_sampling import Sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb; decoding options have the names and meanings of fairseq."""
    parser.add_argument(
        "checkpoint", help="checkpoint of a model trained with --task story_lm or dialog_lm"
    )
    parser.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help="text file with one prompt on each line, or - for standard input",
    )
    parser.add_argument(
        "--num-samples",
        type=positive_int,
        default=1,
        metavar="N",
        help="number of samples of each prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write JSON lines with prompt, number of the sample, text and number of tokens",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=32,
        metavar="N",
        help="maximum number of samples that are generated together (default: %(default)s)",
    )
    add_loading_options(parser)
    add_decoding_options(parser, "sample", no_repeat_ngram_size=0, seed=1)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    options = decoding_options(args)
    prompts = list(read_text_lines(args.prompts))
    if not prompts:
        raise UserError(f"--prompts {args.prompts}: is empty; write one prompt on each line")
    if args.num_samples * len(prompts) > _MOST_SAMPLES:
        raise UserError(
            f"--num-samples {args.num_samples} for {len(prompts)} prompts: at most "
            f"{_MOST_SAMPLES:,} samples in all, because they are kept in memory; take more seeds"
        )
    register()  # must precede the first import of fairseq, which logs and warns without it
    from ..generation.session import Session
    from ..generation.writers import Kind

    logging.getLogger().setLevel(logging.WARNING)
    changed = {"lora_adapter": args.lora_adapter}
    session = Session.load(args.checkpoint, args.data, args.cpu, changed)
    dialogs = session.kind == Kind.DIALOG
    requests = [prompt.split("\t") if dialogs else prompt for prompt in prompts]
    start = time.perf_counter()
    found = []
    # the file is opened first, so that a path that cannot be written costs no samples
    with whole_file(args.output, "w") if args.output else nullcontext() as stream:
        with progress_bar(len(prompts) * args.num_samples, "sample", "sampling") as bar:
            for sample in session.sample(requests, args.num_samples, options, args.batch_size):
                found.append(sample)
                bar.update()
        seconds = time.perf_counter() - start
        found.sort()
        if stream is not None:
            for sample in found:
                stream.write(json.dumps(record(sample, prompts), ensure_ascii=False) + "\n")
    for sample in found:
        print(readable(sample, prompts, args.num_samples))
    logging.getLogger(__name__).warning(
        "%d samples, %.0f tokens/s", len(found), sum(s.num_tokens for s in found) / seconds
    )


def record(sample: Sample, prompts: list[str]) -> dict[str, str | int]:
    """Return the JSON object of a sample."""
    return {
        "prompt": prompts[sample.request],
        "sample": sample.number + 1,
        "text": sample.text,
        "num_tokens": sample.num_tokens,
    }


def readable(sample: Sample, prompts: list[str], num_samples: int) -> str:
    """Return a sample for people: a heading, and the prompt with its continuation."""
    heading = f"--- prompt {sample.request + 1}, sample {sample.number + 1} of {num_samples}"
    return f"{heading}\n{prompts[sample.request]}|{sample.text}\n"
