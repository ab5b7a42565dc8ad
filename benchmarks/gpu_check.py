#!/usr/bin/env python
"""Check everything that needs a GPU, within ten minutes, and write one Markdown page.

The steps: the machine and its peaks; the tests with the marker gpu; a training in a process group
of one process through every backend; tables of training and generation beside fairseq and Hugging
Face. Each step has its own budget; the page is written again after each one, so a stop leaves what
was measured. `make gpu-check` calls this. Exit status 1 if a step failed or was stopped.
"""

import argparse
import dataclasses
import functools
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import check_process
import check_steps
from check_page import FAILED, LEFT_OUT, PASSED, RUNNING, STOPPED, Page, Section
from check_steps import Check, Failed, LeftOut

# Less is not enough for any step but the first to import its packages.
LEAST_SECONDS = 8


@dataclasses.dataclass
class Step:
    """A step with its budget.

    Args:
        name: its word for ``--steps``.
        title: its title on the page.
        seconds: its budget.
        run: takes the check and the seconds left to the step, and returns Markdown.
    """

    name: str
    title: str
    seconds: float
    run: Callable[[Check, float], str]


def _train(precision: str, size: str) -> Callable[[Check, float], str]:
    return functools.partial(_call, check_steps.train_step, precision, size)


def _generate(precision: str) -> Callable[[Check, float], str]:
    return functools.partial(_call, check_steps.generate_step, precision)


def _call(step: Callable[..., str], *rest: object) -> str:
    # functools.partial gives the step's own words first; the check and the seconds come last
    *words, check, seconds = rest
    return step(check, *words, seconds)


# What is most worth knowing comes first, because a slow machine may not reach the end.
STEPS = [
    Step("machine", "Machine", 60, check_steps.machine_step),
    Step("tests", "Tests with the marker gpu", 90, check_steps.tests_step),
    Step("backends", "One process through every backend", 130, check_steps.backends_step),
    Step("train-bf16", "Training in bf16", 100, _train("bf16", "training")),
    Step("generate-bf16", "Generation in bf16", 70, _generate("bf16")),
    Step("train-fp16", "Training in fp16", 100, _train("fp16", "training")),
    Step("generate-fp16", "Generation in fp16", 70, _generate("fp16")),
    Step("large-bf16", "Training a larger model in bf16", 110, _train("bf16", "large")),
    Step("large-fp16", "Training a larger model in fp16", 110, _train("fp16", "large")),
]


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gpu-check.md"), help="the page")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal in tiny shapes"
    )
    parser.add_argument(
        "--minutes", type=float, default=9.5, help="budget of all steps (default: 9.5)"
    )
    parser.add_argument(
        "--budget-factor",
        type=float,
        default=1.0,
        help="multiply the budget of every step, for a slow or busy machine",
    )
    parser.add_argument(
        "--began", type=float, help="when the budget began, in seconds since 1970 (default: now)"
    )
    names = [step.name for step in STEPS]
    parser.add_argument("--steps", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=["pytorch_ddp", "legacy_ddp", "no_c10d", "fsdp2"],
        help="backends to go through (default: all that exist)",
    )
    parser.add_argument("--peers", nargs="*", choices=["fairseq", "hf"], default=["fairseq", "hf"])
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="also measure with --compile (default: on a GPU)",
    )
    args = parser.parse_args(words)
    if args.compile is None:
        args.compile = args.device == "cuda"
    if "machine" not in args.steps:  # the others need it
        args.steps = ["machine", *args.steps]
    return args


def carry_out(step: Step, section: Section, check: Check, seconds: float) -> None:
    """Run one step, and put what it finds into its section.

    Args:
        step: the step.
        section: its section.
        check: what the steps share.
        seconds: what is left of the whole budget.
    """
    if seconds < LEAST_SECONDS:
        section.outcome = LEFT_OUT
        section.remark = f"{max(seconds, 0):.0f} s are left of the whole budget"
        return
    began = time.monotonic()
    try:
        section.body = step.run(check, min(step.seconds, seconds))
        section.outcome = PASSED
    except LeftOut as reason:
        section.outcome, section.remark = LEFT_OUT, str(reason)
    except Failed as error:
        section.outcome = STOPPED if error.is_over_budget else FAILED
        section.remark, section.body = str(error), error.body
    except Exception:  # a fault of this script leaves the other steps' results
        lines = traceback.format_exc().strip().splitlines()
        section.outcome, section.remark = FAILED, lines[-1]
        section.body = "\n".join("    " + line for line in lines)
    section.took = time.monotonic() - began


def carry_out_all(
    steps: list[Step], check: Check, page: Page, ends: float, now: Callable[[], float] = time.time
) -> None:
    """Run the steps one after the other, and write the page before and after each of them.

    Args:
        steps: the steps, as many as the page has sections.
        check: what the steps share.
        page: the page.
        ends: when the whole budget ends, on the clock ``now``.
        now: returns the time in seconds.
    """
    for step, section in zip(steps, page.sections, strict=True):
        if not check.machine and step is not steps[0]:
            section.outcome, section.remark = (
                LEFT_OUT,
                f"the step {steps[0].title} found no machine",
            )
            continue
        left = ends - now()
        try:
            section.outcome = RUNNING
            page.write()
            print(f"== {step.title}, at most {min(step.seconds, left):.0f} s", flush=True)
            carry_out(step, section, check, left)
        except BaseException:  # Ctrl-C, or a signal
            section.outcome, section.remark = STOPPED, "the whole check was ended from outside"
            check_process.stop_all()
            raise
        finally:
            page.write()
        print(f"   {section.outcome} {section.remark}", flush=True)
    page.write()


def main(words: list[str] | None = None) -> int:
    """Run the steps; return the exit status."""
    args = parse_args(words)
    steps = [
        dataclasses.replace(step, seconds=args.budget_factor * step.seconds)
        for step in STEPS
        if step.name in args.steps
    ]
    began = args.began or time.time()
    command = shlex.join(["python", *sys.argv] if words is None else ["gpu_check.py", *words])
    head = (
        f"# Check on a {'GPU' if args.device == 'cuda' else 'CPU (a rehearsal in tiny shapes)'}\n\n"
        f"    {command}\n\nThe budget of all steps together is {args.minutes:g} minutes"
        + (f", of which the set-up took {time.time() - began:.0f} s." if args.began else ".")
    )
    page = Page(args.output, head, [Section(step.title, step.seconds) for step in steps])
    check = Check(args.device, list(args.peers), args.backends, args.compile)

    def stop(number: int, _: object) -> None:
        check_process.stop_all()
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    carry_out_all(steps, check, page, began + 60 * args.minutes)
    print(f"== {args.output} is written")
    return int(any(section.outcome in (FAILED, STOPPED) for section in page.sections))


if __name__ == "__main__":
    sys.exit(main())
