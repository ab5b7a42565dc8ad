"""Process the command lines of fairseq's commands.

:func:`install` wraps fairseq's option parser. The wrapper does the following, in this order: it
reports mistakes in one line, takes missing options from the checkpoint, works around faults of the
parser, and refuses options that contradict each other or that the machine does not support.
:func:`install` also wraps fairseq's ``setup_task``, to choose the library for fp32 matrix products.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, NoReturn

import torch

from .compat import read_checkpoint
from .compat.bf16 import switch_off_tpu
from .compat.pieces import refuse_joining_twice
from .compat.shards import divide_generation
from .compat.torchrun import join_torchrun
from .errors import UserError
from .interfaces import (
    ChecksCommand,
    ChoosesFastProducts,
    DeclaresOptions,
    KnowsDirection,
    RemembersOptions,
)
from .modules.fast_gemm import choose_fast_fp32_products
from .option_rules import check_numbers

_installed = False
# Further steps after parsing, each called with the parsed options and the words that were given.
_steps: list[Callable[[Namespace, list[str]], None]] = []


def install() -> None:
    """Install this module's changes in fairseq; a second call does nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    from fairseq import options, tasks

    options.parse_args_and_arch = _reading(options.parse_args_and_arch)
    tasks.setup_task = _choosing_arithmetic(tasks.setup_task)


def _reading(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap fairseq's ``parse_args_and_arch`` with the steps that the module's docstring lists."""

    @functools.wraps(original)
    def parse_args_and_arch(
        parser: ArgumentParser, input_args: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        words = list(sys.argv[1:] if input_args is None else input_args)
        parser.error = functools.partial(short_usage_error, parser)  # type: ignore[method-assign]
        given = list(words)
        words += words_of_base(words)
        check_words(parser, words)
        words += words_of_checkpoint(words)
        result = original(parser, words, *args, **kwargs)
        parsed = result[0] if isinstance(result, tuple) else result
        switch_off_tpu(parsed, words)
        join_torchrun(parsed, words)
        divide_generation(parsed, words)
        check_numbers(parsed)
        refuse_joining_twice(parsed)
        check_options(parsed, torch.cuda.is_available())
        task = _task_class(getattr(parsed, "task", None))
        if isinstance(task, ChecksCommand):
            task.check_command(parsed)
        for step in _steps:
            step(parsed, given)
        return result

    return parse_args_and_arch


def add_step(step: Callable[[Namespace, list[str]], None]) -> None:
    """Call a function after each parsing of a command line; a second call does nothing.

    Rooms of the library that add options to fairseq's commands check them so.

    Args:
        step: a function of the parsed options, which it may change, and of the words that were
            given. Not every command has every option.
    """
    if step not in _steps:
        _steps.append(step)


def add_fields(config: type, own: type) -> None:
    """Add the options of one fairseq dataclass to another, with its place on the command line.

    Call fairseq's ``hydra_init`` after the last of these calls, because fairseq has stored the
    config without the options for Hydra; the plug-in does so once, as it takes a quarter of a
    second.

    Args:
        config: the class that is extended, such as fairseq's ``OptimizationConfig``.
        own: the class with the new options.
    """
    from fairseq.dataclass import FairseqDataclass

    own_fields: dict[str, Any] = vars(own)["__dataclass_fields__"]
    for name, field in own_fields.items():
        if name not in FairseqDataclass.__dataclass_fields__:
            vars(config)["__dataclass_fields__"][name] = field
            config.__annotations__[name] = field.type
            setattr(config, name, field.default)


# ------------------------------------------------------------------ before parsing


def short_usage_error(parser: ArgumentParser, message: str) -> NoReturn:
    """Report a usage error in one line, without the usage text, and exit with status 2.

    fairseq's usage text has about two hundred lines. A long list of valid choices is reduced to
    those that resemble the given value.

    Args:
        parser: parser of a fairseq command.
        message: argparse's error message.
    """
    message = message.replace("invalid <lambda> value", "invalid value")
    known, start = [], re.search(r" \(choose from (.*)\)", message, re.DOTALL)
    wrong = re.search(r"(?:invalid choice: '?|unrecognized arguments: )([^' ]+)", message)
    if start and len(start[1]) > 400:
        known = [name.strip(" '") for name in start[1].split(",")]
        message = message[: start.start()]
    elif not start:
        known = list(parser._option_string_actions)
    near = difflib.get_close_matches(wrong[1], known) if wrong else []
    remedy = f"did you mean {' or '.join(near)}? " if near else ""
    parser.exit(2, f"error: {message} ({remedy}--help lists all options)\n")


def check_words(parser: ArgumentParser, words: list[str]) -> None:
    """Refuse a command line that lacks a required architecture or checkpoint.

    Args:
        parser: parser of a fairseq command.
        words: words of the command line.

    Raises:
        UserError: ``--arch`` or ``--path`` is missing.
    """

    def given(*options: str) -> bool:
        return any(word.split("=")[0] in options for word in words)

    if given("-h", "--help"):
        return
    if "--arch" in parser._option_string_actions and parser.get_default("arch") is None:
        if not given("--arch", "-a"):
            raise UserError(
                "--arch is missing: name an architecture, for stories --arch gpt_tiny; only a gpt "
                "or unilm_seq2seq that --finetune-from-model names has its own"
            )
    if "--path" in parser._option_string_actions and not given("--path"):
        raise UserError("--path is missing: name the checkpoint of a trained model")


def words_of_checkpoint(words: list[str]) -> list[str]:
    """Return the missing options ``--task``, ``-s`` and ``-t``, taken from the checkpoint.

    Without ``--task`` fairseq's commands assume translation, or fail. The checkpoint contains the
    name of its task. If that task is :class:`~fairtale.interfaces.KnowsDirection`, the task state
    in the checkpoint also contains the languages.

    Args:
        words: words of the command line.

    Returns:
        Words to append to the command line.

    Raises:
        UserError: ``--path`` names a file that is missing or is not a checkpoint.
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
        return []  # the checkpoint has no option to add
    path = path.split(os.pathsep)[0]
    if os.path.isdir(path):
        raise UserError(
            f"--path {path}: a folder; name a file, or make one of the shards of --save-sharded: "
            f"fairtale consolidate {path} --output FILE"
        )
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


def words_of_base(words: list[str]) -> list[str]:
    """Return the options that a training takes from the checkpoint that it starts from.

    Without ``--arch``, ``--finetune-from-model`` gives the architecture, all options of the model,
    the task, and the task's stored options. An option on the command line counts instead, unless
    the weights of the checkpoint have another shape.

    Args:
        words: words of the command line.

    Returns:
        Words to append to the command line; none if the model does not declare its shape.

    Raises:
        UserError: the checkpoint is missing or damaged, or an option contradicts its shape.
    """
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY

    given = _given(words, ["finetune_from_model", "arch", "task"])
    path = given.get("finetune_from_model")
    if path is None or "arch" in given or "://" in path or {"-a", "-h", "--help"} & set(words):
        return []
    if not os.path.isfile(path):
        raise UserError(f"--finetune-from-model {path}: no such file; name a checkpoint")
    state = read_checkpoint(path)
    values, task = _settings_of_checkpoint(state, "model"), _task_of_checkpoint(state)
    arch = values.pop("_name", None)
    model_class = MODEL_REGISTRY.get(ARCH_MODEL_NAME_REGISTRY.get(arch, arch))
    if not isinstance(model_class, DeclaresOptions):
        return []
    values = {name: values[name] for name in model_class.all_options() if name in values}
    fixed = set(model_class.shape_options)
    if given.get("task", task) == task and isinstance(_task_class(task), RemembersOptions):
        stored = {name: state["task_state"].get(name) for name in _task_class(task).remembered}
        # an option of the same name, --max-target-positions of dialog_lm, is the task's
        values, fixed = {**values, **stored}, fixed - stored.keys()
    explicit = _given(words, values)
    for name in sorted(fixed & explicit.keys()):
        if not _same(explicit[name], values[name]):
            raise UserError(
                f"{_option_of(name)} {explicit[name]}: the weights of {path} need {values[name]}: "
                "leave the option out"
            )
    new = {"arch": arch, **({} if "task" in given else {"task": task}), **values}
    found: list[str] = []
    for name, value in new.items():
        if name in explicit:
            continue
        if value is True:
            found.append(_option_of(name))
        elif value is not None and value is not False:
            found += [_option_of(name), str(value)]
    return found


def _option_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _given(words: list[str], names: Iterable[str]) -> dict[str, str]:
    """Return the words behind the options that a command line has; a flag has some word, too."""
    finder = ArgumentParser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    for name in names:
        finder.add_argument(_option_of(name), dest=name, nargs="?", const="")
    return vars(finder.parse_known_args(words)[0])


def _same(word: str, value: Any) -> bool:
    """Return whether a word of the command line means the value of an option."""
    if isinstance(value, bool):
        return value  # a flag
    try:
        return float(word) == float(value)
    except (TypeError, ValueError):
        return word == str(value)


def _task_of_checkpoint(state: dict[str, Any]) -> str | None:
    """Return the name of the task that a checkpoint was trained with."""
    settings = _settings_of_checkpoint(state, "task")
    return settings.get("_name") or settings.get("task")


def _settings_of_checkpoint(state: dict[str, Any], part: str) -> dict[str, Any]:
    """Return the settings of the model or the task, or of everything in an older checkpoint."""
    settings = (state.get("cfg") or {}).get(part) or state.get("args") or {}
    return dict(settings if isinstance(settings, dict) else vars(settings))


def _task_class(name: str | None) -> Any:
    """Return the class of the task registered under ``name``, or None."""
    from fairseq.tasks import TASK_REGISTRY

    return TASK_REGISTRY.get(name)


# ------------------------------------------------------------------------ after parsing


def check_options(args: Namespace, cuda: bool) -> None:
    """Refuse options that fairseq would ignore, or that would make it fail later.

    Args:
        args: parsed options of a fairseq command; not every command has every option.
        cuda: whether a GPU is available.

    Raises:
        UserError: an option is refused; the message contains the option and the remedy.
    """
    restore = getattr(args, "restore_file", None)
    if restore not in (None, "checkpoint_last.pt") and "://" not in restore:
        if not os.path.exists(restore) and not getattr(args, "checkpoint_suffix", ""):
            raise UserError(
                f"--restore-file {restore}: no such file; fairseq would train from scratch"
            )
    if getattr(args, "lora_rank", 0) and hasattr(args, "save_dir"):
        last = os.path.join(args.save_dir, "checkpoint_last.pt")
        begun = restore != "checkpoint_last.pt" or os.path.exists(last)
        if not begun and not getattr(args, "finetune_from_model", None):
            raise UserError(
                f"--lora-rank {args.lora_rank}: only adapters are trained, so name their base with "
                "--finetune-from-model CHECKPOINT"
            )
    if getattr(args, "write_checkpoints_asynchronously", False) and not find_spec("iopath"):
        raise UserError(
            "--write-checkpoints-asynchronously needs the package iopath: pip install iopath, or "
            "leave it out"
        )
    trains, gpu = hasattr(args, "update_freq"), cuda and not getattr(args, "cpu", False)
    if trains and not gpu and getattr(args, "fp16", False):
        plain = (
            str(getattr(args, "ddp_backend", "")) == "fsdp2"
        )  # which has no flat tensor of all gradients
        if not (args.memory_efficient_fp16 or args.fp16_no_flatten_grads or plain):
            raise UserError("--fp16 trains on a GPU only: use --bf16 on a CPU, or leave it out")


def _choosing_arithmetic(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap fairseq's ``setup_task`` so that it calls :func:`choose_arithmetic` at its end.

    Every program sets up its task before it builds a model. This holds for fairseq's commands, for
    ``fairseq-hydra-train``, and for verbs of ``fairtale`` that load a checkpoint.
    """

    @functools.wraps(original)
    def setup_task(*args: Any, **kwargs: Any) -> Any:
        task = original(*args, **kwargs)
        choose_arithmetic(task)
        return task

    return setup_task


def choose_arithmetic(task: object) -> None:
    """Select the faster library for the fp32 products of this process if the task requests it.

    See :mod:`fairtale.modules.fast_gemm` for the setting itself.

    Args:
        task: a registered task, or its class. A task that is not
            :class:`~fairtale.interfaces.ChoosesFastProducts` leaves torch unchanged.
    """
    if isinstance(task, ChoosesFastProducts) and task.fast_fp32_products:
        choose_fast_fp32_products()
