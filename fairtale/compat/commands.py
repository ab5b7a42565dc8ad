"""Cures of fairseq's command lines: options, torchrun, the forgotten task, validations unheard."""

import argparse
import functools
import os
import sys

import torch
from fairseq import options

from ..errors import UserError, check_options, check_words, short_usage_error
from .checkpoints import read_checkpoint


def cure_bf16_option():
    """``--bf16`` on the command line turns on ``--tpu`` and fails without torch_xla."""

    def no_tpu(args, argv):
        if getattr(args, "bf16", False) and "--tpu" not in argv:
            args.tpu = False

    _after_parsing(no_tpu)


def cure_torchrun():
    """Plain ``torchrun fairseq-train`` trains independent copies into one folder.

    fairseq reads the world size from the environment only if several GPUs are visible to
    each process, and divides by zero without any. Needless once ``infer_init_method``
    looks at the environment first.
    """
    _after_parsing(_join_torchrun)


def _join_torchrun(args, argv):
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    launched = all(k in os.environ for k in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))
    if not launched or not hasattr(args, "distributed_init_method") or not hasattr(args, "arch"):
        return
    if args.distributed_init_method is not None:
        return  # the user has said how to meet
    args.distributed_no_spawn = True
    args.distributed_world_size = world_size
    args.distributed_rank = int(os.environ["RANK"])
    args.device_id = int(os.environ["LOCAL_RANK"])
    if world_size > 1:
        args.distributed_init_method = "env://"
    if not torch.cuda.is_available() or getattr(args, "cpu", False):
        if "--distributed-backend" not in argv:
            args.distributed_backend = "gloo"
        if "--ddp-backend" not in argv:  # pytorch_ddp is given device ids, which a CPU lacks
            args.ddp_backend = "legacy_ddp"


def cure_command_lines():
    """Mistakes end in a traceback, in two hundred lines or in nothing; ``--task`` is forgotten.

    Without it a checkpoint's command assumes translation, or fails. The checkpoint knows its
    task, so it is asked. A task with ``direction_of(task_state)`` says which languages it has.
    """
    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, *args, **kwargs):
        argv = list(sys.argv[1:] if input_args is None else input_args)
        parser.error = functools.partial(short_usage_error, parser)
        check_words(parser, argv)
        return original(parser, argv + _words_of_checkpoint(argv), *args, **kwargs)

    options.parse_args_and_arch = parse_args_and_arch
    _after_parsing(lambda args, argv: check_options(args, torch.cuda.is_available()))


def _words_of_checkpoint(argv):
    """Return what a command line leaves to the checkpoint: ``--task``, ``-s`` and ``-t``."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--path")
    finder.add_argument("--task", nargs="?")
    finder.add_argument("--source-lang", "-s", nargs="?")
    finder.add_argument("--target-lang", "-t", nargs="?")
    given = finder.parse_known_args(argv)[0]
    path, name = given.path, given.task
    if path is None or "--arch" in argv or "://" in path or "--checkpoint-shard-count" in argv:
        return []
    from fairseq.tasks import TASK_REGISTRY

    if name is not None and not hasattr(TASK_REGISTRY.get(name), "direction_of"):
        return []
    path = path.split(os.pathsep)[0]
    if not os.path.isfile(path):
        raise UserError(f"--path {path}: no such file; name the checkpoint of a trained model")
    state, words = read_checkpoint(path), []
    if name is None:
        task = (state.get("cfg") or {}).get("task") or state.get("args") or {}
        task = task if isinstance(task, dict) else vars(task)
        name = task.get("_name") or task.get("task")
        words = ["--task", name] if name in TASK_REGISTRY else []
    direction_of = getattr(TASK_REGISTRY.get(name), "direction_of", None)
    if direction_of is None or given.source_lang or given.target_lang:
        return words
    languages = direction_of(state.get("task_state") or {})
    if languages:
        words += ["--source-lang", languages[0], "--target-lang", languages[1]]
    return words


def _after_parsing(amend):
    """Let ``amend(args, argv)`` correct what fairseq's option parser returns."""
    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, *args, **kwargs):
        result = original(parser, input_args, *args, **kwargs)
        namespace = result[0] if isinstance(result, tuple) else result
        amend(namespace, list(sys.argv[1:] if input_args is None else input_args))
        return result

    options.parse_args_and_arch = parse_args_and_arch


def cure_prompt_encoding():
    """Bytes of a prompt that are not UTF-8 shall reach the task, which names their line."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def install_validation_hook():
    """Let a learning-rate scheduler hear of every validation, not of epochs' ends only.

    fairseq calls ``lr_scheduler.step`` once an epoch; with ``--validate-interval-updates``
    all other validations pass unheard. A scheduler with a method ``step_validation(loss)``
    gets the first subset's loss after each.

    Raises:
        UserError: not called from ``fairseq-train``, so nobody would ever call the scheduler.
    """
    main = sys.modules.get("__main__")
    is_main = getattr(getattr(main, "__spec__", None), "name", None) == "fairseq_cli.train"
    modules = [sys.modules.get("fairseq_cli.train"), main if is_main else None]
    modules = [module for module in modules if module is not None]
    if not modules:
        raise UserError("this scheduler follows validations: it works in fairseq-train only")
    for module in modules:
        original = module.validate
        if getattr(original, "tells_scheduler", False):
            continue

        @functools.wraps(original)
        def validate(cfg, trainer, *args, _original=original, **kwargs):
            losses = _original(cfg, trainer, *args, **kwargs)
            step = getattr(trainer.lr_scheduler, "step_validation", None)
            if step is not None and losses and losses[0] is not None:
                step(losses[0])
            return losses

        validate.tells_scheduler = True
        module.validate = validate
