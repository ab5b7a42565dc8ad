"""Hand the parts of a text from the thread of an engine to whoever has asked for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .interface import Delta, FinishReason

logger = logging.getLogger(__name__)


class Delivery:
    """The ticket of a request and the way of its text, which has exactly one last part.

    Args:
        deliver: takes the parts of the text.
    """

    def __init__(self, deliver: Callable[[Delta], None]) -> None:
        self.is_cancelled = False
        self._deliver = deliver
        self._ended = threading.Lock()  # held from the last part on

    def cancel(self) -> None:
        """End the request at the next step; any thread may call this."""
        self.is_cancelled = True

    @property
    def has_ended(self) -> bool:
        """Return whether the last part was delivered."""
        return self._ended.locked()

    def send(self, delta: Delta) -> None:
        """Deliver a part of the text; does nothing if the last one was delivered."""
        if delta.finish_reason is None:
            is_late = self.has_ended
        else:
            is_late = not self._ended.acquire(blocking=False)
        if is_late:
            return
        try:
            self._deliver(delta)
        except Exception:  # whoever receives the text is no reason to end the texts of others
            logger.exception("a part of a text could not be delivered; its request is cancelled")
            self.is_cancelled = True

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Deliver the last part, without text.

        Args:
            reason: why the text ends.
            error: the message for the reason "error".
        """
        self.send(Delta("", 0, (), reason, error))
