"""The schedule of unfreezing is read exactly, and what cannot be meant is refused."""

import pytest

from fairtale.errors import UserError
from fairtale.optim.unfreezing import read_schedule


def trained(text, num_groups, times):
    schedule = read_schedule(text, num_groups)
    return [schedule.num_trained(t, -1) for t in times], schedule.by_epochs


def test_by_updates():
    assert trained("0:1,4:2,8:all", 5, [0, 3, 4, 7, 8, 99]) == ([1, 1, 2, 2, 5, 5], False)


def test_by_epochs():
    schedule = read_schedule("1e:1,3e:4", 4)
    assert schedule.by_epochs
    assert [schedule.num_trained(1000, epoch) for epoch in (1, 2, 3, 4)] == [1, 1, 4, 4]


def test_every():
    assert trained("every:10", 3, [0, 9, 10, 20, 30]) == ([1, 1, 2, 3, 3], False)
    schedule = read_schedule("every:2e", 3)
    assert [schedule.num_trained(0, e) for e in range(1, 7)] == [1, 1, 2, 2, 3, 3]


def test_start_of_each_group():
    schedule = read_schedule("0:1,4:3", 4)
    assert [schedule.start_of(place) for place in (1, 2, 3, 4)] == [
        "the start",
        "update 4",
        "update 4",
        "never",
    ]
    assert read_schedule("1e:1,2e:2", 4).start_of(2) == "epoch 2"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write START:GROUPS"),
        ("0", "write START:GROUPS"),
        ("0:1,2:", "write START:GROUPS"),
        ("0:1;2:2", "write START:GROUPS"),
        ("0:-1", "write START:GROUPS"),
        ("0:1, 2:2", "write START:GROUPS"),
        ("0:1.5", "write START:GROUPS"),
        ("0:some", "write START:GROUPS"),
        ("every:x", "write START:GROUPS"),
        ("every:0", "at least 1"),
        ("0:1,2e:2", "not both"),
        ("5:1", "begin with 0:GROUPS"),
        ("0e:1", "begin with 1e:GROUPS"),
        ("0:1,0:2", "must increase"),
        ("0:2,5:1", "must increase"),
        ("0:2,5:2", "must increase"),
        ("0:0,5:2", "must increase"),
        ("0:all,5:2", "must increase"),
        ("0:1,5:5", "only 4"),
    ],
)
def test_refused(text, reason):
    with pytest.raises(UserError, match=reason):
        read_schedule(text, 4)


def test_grammar_is_checked_before_the_groups_are_known():
    read_schedule("0:1,5:77,6:all", None)
    with pytest.raises(UserError, match="must increase"):
        read_schedule("0:all,5:77", None)


@pytest.mark.parametrize(
    ("text", "limits", "refused"),
    [
        ("0:1,5:2", (5, 0, 0), True),
        ("0:1,5:2", (6, 0, 0), False),
        ("0:1,5:2", (0, 0, 0), False),  # without an end
        ("0:1,5:2", (0, 2, 0), False),  # the length of an epoch is not known yet
        ("0:1,5:2", (0, 2, 2), True),
        ("0:1,5:2", (0, 2, 3), False),
        ("1e:1,3e:2", (0, 2, 0), True),
        ("1e:1,3e:2", (0, 3, 0), False),
        ("1e:1,3e:2", (8, 0, 4), True),
        ("1e:1,3e:2", (9, 0, 4), False),
        ("every:5", (15, 0, 0), True),
        ("every:5", (16, 0, 0), False),
    ],
)
def test_end_of_the_training(text, limits, refused):
    schedule = read_schedule(text, 4)
    if refused:
        with pytest.raises(UserError, match="not before the end"):
            schedule.check_end(text, *limits)
    else:
        schedule.check_end(text, *limits)
