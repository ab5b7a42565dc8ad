"""fairseq's command lines, read in one place.

:func:`install` puts :func:`_reading` around fairseq's option parser, and everything that this
plug-in does with a command line happens there, in order: mistakes become one line, what is left
out is taken from the checkpoint, faults of the parser are cured, and options that contradict each
other or the machine are refused. It also chooses the arithmetic of a command when its task is set
up.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NoReturn

import torch

from .compat import read_checkpoint
from .compat.bf16 import switch_off_tpu
from .compat.torchrun import join_torchrun
from .errors import UserError
from .interfaces import ChoosesFastProducts, KnowsDirection
from .modules.fast_gemm import choose_fast_fp32_products

_installed = False


def install() -> None:
    """Let every fairseq command read its command line as this module says, once per process."""
    global _installed
    if _installed:
        return
    _installed = True
    from fairseq import options, tasks

    options.parse_args_and_arch = _reading(options.parse_args_and_arch)
    tasks.setup_task = _choosing_arithmetic(tasks.setup_task)


def _reading(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return fairseq's ``parse_args_and_arch`` with all that this module adds to it."""

    @functools.wraps(original)
    def parse_args_and_arch(
        parser: ArgumentParser, input_args: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        words = list(sys.argv[1:] if input_args is None else input_args)
        parser.error = functools.partial(short_usage_error, parser)  # type: ignore[method-assign]
        check_words(parser, words)
        words += words_of_checkpoint(words)
        result = original(parser, words, *args, **kwargs)
        parsed = result[0] if isinstance(result, tuple) else result
        switch_off_tpu(parsed, words)
        join_torchrun(parsed, words)
        check_options(parsed, torch.cuda.is_available())
        return result

    return parse_args_and_arch


# ------------------------------------------------------------------ words that are missing


def short_usage_error(parser: ArgumentParser, message: str) -> NoReturn:
    """End a command with one line, where argparse writes two hundred before it.

    A long list of choices is replaced by those that resemble what was given.
    """
    known, start = [], re.search(r" \(choose from (.*)\)", message, re.DOTALL)
    wrong = re.search(r"(?:invalid choice: '?|unrecognized arguments: )([^' ]+)", message)
    if start and len(start[1]) > 400:
        known = [name.strip(" '") for name in start[1].split(",")]
        message = message[: start.start()]
    elif not start:
        known = list(parser._option_string_actions)
    near = difflib.get_close_matches(wrong[1], known) if wrong else []
    remedy = f"did you mean {' or '.join(near)}? " if near else ""
    parser.exit(2, f"error: {message} ({remedy}--help lists what there is)\n")


def check_words(parser: ArgumentParser, words: list[str]) -> None:
    """Refuse a command line on which an architecture or a checkpoint is missing.

    Args:
        parser: of a fairseq command.
        words: its command line.

    Raises:
        UserError: ``--arch`` or ``--path`` is missing.
    """

    def given(*options: str) -> bool:
        return any(word.split("=")[0] in options for word in words)

    if given("-h", "--help"):
        return
    if "--arch" in parser._option_string_actions and parser.get_default("arch") is None:
        if not given("--arch", "-a"):
            raise UserError("--arch is missing: name an architecture, for stories --arch gpt_tiny")
    if "--path" in parser._option_string_actions and not given("--path"):
        raise UserError("--path is missing: name the checkpoint of a trained model")


def words_of_checkpoint(words: list[str]) -> list[str]:
    """Return what a command line leaves to the checkpoint: ``--task``, ``-s`` and ``-t``.

    Without ``--task`` fairseq's commands assume translation, or fail. The checkpoint knows its
    task, and the task state of one that is :class:`~fairtale.interfaces.KnowsDirection` says
    which languages it translates.

    Args:
        words: the command line.

    Raises:
        UserError: ``--path`` names no file, or one that is no checkpoint.
    """
    finder = ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--path")
    finder.add_argument("--task", nargs="?")
    finder.add_argument("--source-lang", "-s", nargs="?")
    finder.add_argument("--target-lang", "-t", nargs="?")
    given = finder.parse_known_args(words)[0]
    path, name = given.path, given.task
    if path is None or "--arch" in words or "://" in path or "--checkpoint-shard-count" in words:
        return []
    if name is not None and not isinstance(_task_class(name), KnowsDirection):
        return []  # nothing that the checkpoint could add
    path = path.split(os.pathsep)[0]
    if not os.path.isfile(path):
        raise UserError(f"--path {path}: no such file; name the checkpoint of a trained model")
    state, found = read_checkpoint(path), []
    if name is None:
        name = _task_of_checkpoint(state)
        found = [] if _task_class(name) is None else ["--task", str(name)]
    task = _task_class(name)
    if not isinstance(task, KnowsDirection) or given.source_lang or given.target_lang:
        return found
    languages = task.direction_of(state.get("task_state") or {})
    if languages:
        found += ["--source-lang", languages[0], "--target-lang", languages[1]]
    return found


def _task_of_checkpoint(state: dict[str, Any]) -> str | None:
    """Return the name of the task that a checkpoint was trained with."""
    settings = (state.get("cfg") or {}).get("task") or state.get("args") or {}
    settings = settings if isinstance(settings, dict) else vars(settings)
    return settings.get("_name") or settings.get("task")


def _task_class(name: str | None) -> Any:
    """Return the registered task of that name, or None."""
    from fairseq.tasks import TASK_REGISTRY

    return TASK_REGISTRY.get(name)


# ------------------------------------------------------------------------ what was parsed


def check_options(args: Namespace, cuda: bool) -> None:
    """Refuse options that fairseq would fail on later, or would take for something else.

    Args:
        args: the parsed options of a fairseq command; some lack most of them.
        cuda: whether there is a GPU.

    Raises:
        UserError: names the option and the remedy.
    """
    restore = getattr(args, "restore_file", None)
    if restore not in (None, "checkpoint_last.pt") and "://" not in restore:
        if not os.path.exists(restore) and not getattr(args, "checkpoint_suffix", ""):
            raise UserError(f"--restore-file {restore}: no such file, it would train from scratch")
    if getattr(args, "write_checkpoints_asynchronously", False) and not find_spec("iopath"):
        raise UserError(
            "--write-checkpoints-asynchronously needs the package iopath: pip install iopath, or "
            "leave it out"
        )
    trains, gpu = hasattr(args, "update_freq"), cuda and not getattr(args, "cpu", False)
    if trains and not gpu and getattr(args, "fp16", False):
        if not (args.memory_efficient_fp16 or args.fp16_no_flatten_grads):
            raise UserError("--fp16 trains on a GPU only: use --bf16 on a CPU, or leave it out")


def _choosing_arithmetic(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return fairseq's ``setup_task`` with a call of :func:`choose_arithmetic` behind it.

    Every command sets up its task before it builds a model: those with a command line of fairseq's,
    ``fairseq-hydra-train``, and verbs that load a checkpoint.
    """

    @functools.wraps(original)
    def setup_task(*args: Any, **kwargs: Any) -> Any:
        task = original(*args, **kwargs)
        choose_arithmetic(task)
        return task

    return setup_task


def choose_arithmetic(task: object) -> None:
    """Run all fp32 products of this process through the faster library, if the task asks for it.

    For the setting itself see :mod:`fairtale.modules.fast_gemm`.

    Args:
        task: a registered task, or its class; tasks that say nothing leave torch as it is.
    """
    if isinstance(task, ChoosesFastProducts) and task.fast_fp32_products:
        choose_fast_fp32_products()
