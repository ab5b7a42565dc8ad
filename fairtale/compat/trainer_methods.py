"""Wrap methods of fairseq's trainer."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from fairseq.trainer import Trainer

Function = Callable[..., Any]


def wrap_trainer(mark: str, wrappers: Iterable[tuple[str, Callable[[Function], Function]]]) -> bool:
    """Wrap methods of ``Trainer``; a second call with the same mark does nothing.

    The methods are wrapped, and not the class, because ``torchrun -m fairseq_cli.train`` runs as
    ``__main__`` with its own reference to it.

    Args:
        mark: a name for all of these wrappers.
        wrappers: names of methods, each with a function that wraps it.

    Returns:
        Whether the methods have been wrapped by this call.
    """
    done: set[str] = vars(Trainer).get("wrapped_for", set())
    if mark in done:
        return False
    Trainer.wrapped_for = done | {mark}
    for name, wrap in wrappers:
        original = getattr(Trainer, name)
        setattr(Trainer, name, functools.wraps(original)(wrap(original)))
    return True
