"""Say how many groups of layers are trained at which time of a training."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UserError

OPTION = "--unfreeze-schedule"
GRAMMAR = (
    "write START:GROUPS,... such as 0:1,200:2,400:all (updates) or 1e:1,2e:all (epochs), "
    "or every:100 or every:1e for one more group each time"
)


@dataclass(frozen=True)
class UnfreezeSchedule:
    """Points in time and the number of groups, counted from the top, that are trained from there.

    ``starts`` are numbers of finished updates, from 0, or numbers of epochs, from 1. Both sequences
    increase strictly.
    """

    by_epochs: bool
    starts: tuple[int, ...]
    counts: tuple[int, ...]

    def num_trained(self, num_updates: int, epoch: int) -> int:
        """Return the number of groups, from the top, that are trained.

        Args:
            num_updates: number of finished updates.
            epoch: number of the epoch, from 1.
        """
        now = epoch if self.by_epochs else num_updates
        reached = [count for start, count in zip(self.starts, self.counts) if start <= now]
        return reached[-1] if reached else self.counts[0]

    def start_of(self, place: int) -> str:
        """Return from when on the group at ``place`` (1 is the top) is trained, as text."""
        for start, count in zip(self.starts, self.counts):
            if count >= place:
                if start == (1 if self.by_epochs else 0):
                    return "the start"
                return f"epoch {start}" if self.by_epochs else f"update {start}"
        return "never"

    def check_end(self, text: str, max_update: int, max_epoch: int, epoch_updates: int) -> None:
        """Refuse a schedule whose last point is not before the end of the training.

        Args:
            text: the schedule as given.
            max_update: number of updates of the training, 0 without a limit.
            max_epoch: number of epochs of the training, 0 without a limit.
            epoch_updates: number of updates of an epoch, 0 if it is not known yet.

        Raises:
            UserError: the last groups would never be trained.
        """
        last = self.starts[-1]
        ends = []
        if self.by_epochs:
            first_update = (last - 1) * epoch_updates
            if max_epoch:
                ends.append((last > max_epoch, f"--max-epoch {max_epoch}"))
            if max_update and epoch_updates:
                what = f"--max-update {max_update} ({epoch_updates} updates an epoch)"
                ends.append((first_update >= max_update, what))
        else:
            if max_update:
                ends.append((last >= max_update, f"--max-update {max_update}"))
            if max_epoch and epoch_updates:
                what = f"--max-epoch {max_epoch} ({epoch_updates} updates an epoch)"
                ends.append((last >= max_epoch * epoch_updates, what))
        point = f"epoch {last}" if self.by_epochs else f"update {last}"
        for too_late, limit in ends:
            if too_late:
                raise UserError(
                    f"{OPTION} {text}: its last point, {point}, is not before the end of the "
                    f"training, {limit}: use earlier points, or train longer"
                )


def check_grammar(text: str) -> None:
    """Refuse a schedule that cannot be read, whatever the number of groups is.

    Raises:
        UserError: see :func:`read_schedule`.
    """
    read_schedule(text, None)


def read_schedule(text: str, num_groups: int | None) -> UnfreezeSchedule:
    """Read the value of ``--unfreeze-schedule``.

    Args:
        text: ``START:GROUPS,...``, where a start is a number of finished updates, or a number of
            an epoch followed by "e", and GROUPS is a number or "all"; or ``every:STEP``.
        num_groups: number of groups, the embeddings included; None if it is not known yet.

    Raises:
        UserError: the text has another form, does not begin at the start of the training, does not
            increase, mixes updates and epochs, or names more groups than there are.
    """
    number = r"(\d+)(e?)"
    every = re.fullmatch(rf"every:{number}", text)
    if every:
        step, by_epochs = int(every[1]), bool(every[2])
        if step == 0:
            raise UserError(f"{OPTION} {text}: the step must be at least 1")
        total = num_groups or 1
        starts = [by_epochs + step * place for place in range(total)]
        return UnfreezeSchedule(by_epochs, tuple(starts), tuple(range(1, total + 1)))

    points = [re.fullmatch(rf"{number}:(\d+|all)", part) for part in text.split(",")]
    found = [point.groups() for point in points if point]
    if len(found) < len(points):
        raise UserError(f"{OPTION} {text}: {GRAMMAR}")
    if len({unit for _, unit, _ in found}) > 1:
        raise UserError(f"{OPTION} {text}: use updates or epochs, not both; {GRAMMAR}")
    by_epochs = found[0][1] == "e"
    starts = [int(start) for start, _, _ in found]
    largest = num_groups or max([int(n) for _, _, n in found if n != "all"] + [0]) + 1
    counts = [largest if n == "all" else int(n) for _, _, n in found]
    if starts[0] != by_epochs:
        first = "1e" if by_epochs else "0"
        raise UserError(f"{OPTION} {text}: begin with {first}:GROUPS, the start of the training")
    if counts[0] < 1 or any(b <= a for x in (starts, counts) for a, b in zip(x, x[1:])):
        raise UserError(
            f"{OPTION} {text}: starts and numbers of groups must increase, from at least 1 group"
        )
    if num_groups is not None and counts[-1] > num_groups:
        raise UserError(
            f"{OPTION} {text}: {counts[-1]} groups, but there are only {num_groups} (the "
            "embeddings are one of them): name fewer, or write all"
        )
    return UnfreezeSchedule(by_epochs, tuple(starts), tuple(counts))
