"""Choose and start the engine that serves a checkpoint, by the task it was trained with."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from .interface import Engine

PREFIX_TASKS = ("story_lm", "dialog_lm")
TRANSLATION_TASKS = ("wmt16_translation", "translation")
_MAX_NAME = 200  # characters


@dataclass(frozen=True)
class EngineOptions:
    """Options of one engine.

    Args:
        data: folder with dictionaries and tokenizer; None for that of the training.
        lora_adapter: folder with an adapter of the model; None for none.
        cpu: use no GPU, even if one is available.
        engine: ``fairseq``, or ``ctranslate2`` for a folder that CTranslate2 runs.
        cache_mib: memory of the cache of prefix language models in MiB; None for the default.
        max_running: rows of the running batch; None for the engine's default.
        max_waiting: number of requests in the queue; None for the engine's default.
        max_waiting_tokens: number of their tokens; None for the engine's default.
    """

    data: str | None = None
    lora_adapter: str | None = None
    cpu: bool = False
    engine: str = "fairseq"
    cache_mib: int | None = None
    max_running: int | None = None
    max_waiting: int | None = None
    max_waiting_tokens: int | None = None

    def queue(self) -> dict[str, int]:
        """Return the limits that were given."""
        named = {name: getattr(self, name) for name in ("max_running", "max_waiting")}
        named["max_waiting_tokens"] = self.max_waiting_tokens
        return {name: value for name, value in named.items() if value is not None}


def served_names(paths: Sequence[str], given: Sequence[str] = ()) -> list[str]:
    """Return the names under which checkpoints are served.

    Args:
        paths: the checkpoints.
        given: a name for each; if empty, a checkpoint is called like its file, or like its folder
            if fairseq has chosen the name of the file (``checkpoint_best.pt``).

    Raises:
        UserError: there are more or fewer names than checkpoints, or a name is there twice, or it
            is empty, too long, or has characters that cannot be printed.
    """
    if given and len(given) != len(paths):
        raise UserError(
            f"--served-model-name: {len(given)} names for {len(paths)} checkpoints; give one for "
            "each, in the same order"
        )
    names = list(given) or [_default_name(path) for path in paths]
    for name, path in zip(names, paths):
        if not name or len(name) > _MAX_NAME or one_line(name) != name:
            raise UserError(
                f"--served-model-name {name[:60]!r} for {path}: a name has 1 to {_MAX_NAME} "
                "printable characters"
            )
        if names.count(name) > 1:
            raise UserError(
                f"{path}: another checkpoint is called {name!r} as well; give --served-model-name "
                "once for each checkpoint"
            )
    return names


def _default_name(path: str) -> str:
    where = Path(path).absolute()
    of_fairseq = where.stem.startswith("checkpoint") and where.suffix == ".pt"
    return where.parent.name if of_fairseq else where.stem if where.suffix == ".pt" else where.name


def values_by_name(option: str, values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the value that an option has for each model.

    Args:
        option: the option, for error messages.
        values: ``NAME=VALUE`` for one model, or ``VALUE`` for all.
        names: names of the models.

    Raises:
        UserError: a model has two values.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        chosen = {name: rest} if equals and name in names else dict.fromkeys(names, value)
        twice = sorted(found.keys() & chosen.keys())
        if twice:
            raise UserError(
                f"{option} {value}: {twice[0]} has {found[twice[0]]} already; give one for each "
                "model, as NAME=DIR"
            )
        found.update(chosen)
    return found


def task_of(path: str) -> str:
    """Return the name of the task that a checkpoint was trained with, reading weights only.

    Raises:
        UserError: the file does not exist, is damaged, or is no checkpoint of fairseq.
    """
    from ..compat import read_checkpoint

    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; name the checkpoint of a trained model")
    return _task_name(read_checkpoint(path))


def _task_name(state: Mapping[str, Any]) -> str:
    found = (state.get("cfg") or {}).get("task") or state.get("args") or {}
    settings = vars(found) if isinstance(found, Namespace) else dict(found)
    return str(settings.get("_name") or settings.get("task") or "unknown")


def load_engine(path: str, options: EngineOptions) -> Engine:
    """Return a running engine for a checkpoint, without executing code that it may contain.

    Raises:
        UserError: the checkpoint is damaged, or cannot be served with these options.
        OSError: a file does not exist.
    """
    if options.engine == "ctranslate2":
        return _ctranslate2_engine(path, options)
    task = task_of(path)
    if task in PREFIX_TASKS:
        return _prefix_engine(path, options)
    if task in TRANSLATION_TASKS:
        return _translation_engine(path, options)
    known = ", ".join([*PREFIX_TASKS, *TRANSLATION_TASKS])
    raise UserError(f"{path}: was trained with --task {task}; models of {known} can be served")


def _prefix_engine(path: str, options: EngineOptions) -> Engine:
    from ..generation.session import Session
    from .engine import PrefixEngine

    overrides = {"lora_adapter": options.lora_adapter}
    session = Session.load(path, options.data, options.cpu, overrides)
    return PrefixEngine(session, cache_mib=options.cache_mib, **options.queue())


def _translation_engine(path: str, options: EngineOptions) -> Engine:
    _refuse(path, options, "a translation model", "lora_adapter", "cache_mib")
    from .translation_engine import TranslationEngine

    return TranslationEngine(path, options.data, options.cpu, **options.queue())


def _ctranslate2_engine(path: str, options: EngineOptions) -> Engine:
    _refuse(path, options, "--engine ctranslate2", "lora_adapter", "cache_mib")
    from .ctranslate2_engine import CTranslate2Engine

    return CTranslate2Engine(path, options.data, options.cpu, **options.queue())


def _refuse(path: str, options: EngineOptions, what: str, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value}: has no effect on {what} ({path}); leave it out")
