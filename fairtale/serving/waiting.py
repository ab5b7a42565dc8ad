"""The bounded queue of requests that wait for a place in the running batch."""

from __future__ import annotations

from collections import deque

from .interface import Overloaded
from .rows import Row

_LONGEST_RETRY = 120.0  # seconds


def refuse_if_full(
    requests: tuple[int, int], tokens: tuple[int, int], cost: int | None, retry_after: float
) -> None:
    """Refuse a request if a queue is full.

    Args:
        requests: number of requests that wait, and its maximum.
        tokens: number of their tokens, and its maximum; it does not apply if no request waits.
        cost: number of tokens of the request; None if they are not counted yet.
        retry_after: seconds until a place is likely to be free.

    Raises:
        Overloaded: the queue is full.
    """
    retry_after = min(max(retry_after, 1.0), _LONGEST_RETRY)
    if requests[0] >= requests[1]:
        full = f"{requests[0]} requests are waiting, and no more than {requests[1]} may wait"
    elif cost is not None and requests[0] and tokens[0] + cost > tokens[1]:
        full = (
            f"requests of {tokens[0]} tokens are waiting, and this one has {cost}; no more than "
            f"{tokens[1]} may wait"
        )
    else:
        return
    raise Overloaded(f"{full}: try again in {retry_after:.0f} s", retry_after)


class Waiting:
    """Requests in the order of their arrival; the caller holds a lock.

    Args:
        max_requests: maximum number of requests.
        max_tokens: maximum number of tokens of their prompts and longest texts; a request that
            has more by itself is accepted when no other waits.
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self._rows: deque[Row] = deque()
        self.num_tokens = 0

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._rows)

    def check(self, cost: int | None, retry_after: float) -> None:
        """Refuse a request if the queue is full.

        Args:
            cost: number of tokens of the request; None if they are not counted yet.
            retry_after: seconds until a place is likely to be free.

        Raises:
            Overloaded: the queue is full.
        """
        refuse_if_full(
            (len(self._rows), self.max_requests),
            (self.num_tokens, self.max_tokens),
            cost,
            retry_after,
        )

    def append(self, row: Row) -> None:
        """Add a request at the end."""
        self._rows.append(row)
        self.num_tokens += row.cost

    def first(self) -> Row | None:
        """Return the oldest request, which stays in the queue."""
        return self._rows[0] if self._rows else None

    def pop(self) -> Row:
        """Remove the oldest request and return it."""
        row = self._rows.popleft()
        self.num_tokens -= row.cost
        return row

    def remove_cancelled(self) -> list[Row]:
        """Remove the requests that were cancelled and return them."""
        gone = [row for row in self._rows if row.is_cancelled]
        if gone:
            self._rows = deque(row for row in self._rows if not row.is_cancelled)
            self.num_tokens = sum(row.cost for row in self._rows)
        return gone
