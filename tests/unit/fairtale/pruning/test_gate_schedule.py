"""The schedule of gates, without a model and a criterion."""

import pytest
import torch

from fairtale.errors import UserError
from fairtale.modules.gate_budget import expected_open
from fairtale.modules.hard_concrete import HardConcreteGate
from fairtale.pruning.gate_schedule import GateSchedule


def gates_of(*log_alphas, keys=("encoder.0", "encoder.1", "cross.0")):
    """Return learned gates with these log-alphas."""
    found = {}
    for key, values in zip(keys, log_alphas):
        found[key] = HardConcreteGate(len(values))
        found[key].set_log_alpha(torch.tensor(values))
    return found


def expected_heads(gates):
    return sum(p.item() for p in expected_open(gates).values())


def num_open(gates):
    return sum(int(gate.value().count_nonzero()) for gate in gates.values())


def test_a_target_comes_down_and_is_fixed_at_its_update():
    gates = gates_of([1.0, 2.0, 3.0], [0.0, 4.0, 5.0])
    schedule = GateSchedule(target_heads=2, warmup_updates=4, fix_update=6)
    schedule.begin(gates, 0)
    found = []
    for num_updates in range(1, 6):
        schedule.end_update(gates, num_updates)
        found.append(expected_heads(gates))
    assert found == pytest.approx([5.0, 4.0, 3.0, 2.0, 2.0], abs=1e-4)
    assert {gate.state for gate in gates.values()} == {"learned"}
    schedule.end_update(gates, 6)
    assert {gate.state for gate in gates.values()} == {"fixed"}
    assert gates["encoder.1"].value().tolist() == [0, 1, 1] and num_open(gates) == 2
    schedule.end_update(gates, 7)  # nothing is left to do
    assert num_open(gates) == 2


def test_a_training_that_begins_late_stands_where_it_would():
    gates = gates_of([1.0, 2.0, 3.0], [0.0, 4.0, 5.0])
    GateSchedule(target_heads=2, warmup_updates=4).begin(gates, 2)
    assert expected_heads(gates) == pytest.approx(4.0, abs=1e-4)
    gates = gates_of([1.0, 2.0, 3.0])
    GateSchedule(target_heads=1, fix_update=3).begin(gates, 5)
    assert gates["encoder.0"].value().tolist() == [0, 0, 1]


def test_a_price_is_a_mean_by_type_that_warms_up():
    gates = gates_of([9.0, 9.0], [9.0], [9.0, -20.0])
    schedule = GateSchedule(penalty=0.4, warmup_updates=10)
    expected = expected_open(gates)
    prices = [schedule.price(gates, expected, n).item() for n in (0, 5, 10, 20)]
    assert prices == pytest.approx([0.0, 0.2 * 1.5, 0.4 * 1.5, 0.4 * 1.5], rel=1e-3)
    held = GateSchedule(target_heads=2).price(gates, expected, 5)
    assert held.item() == 0


def test_gates_compete_for_a_target_only():
    gates = gates_of([0.0, 0.0])
    for options, pulled in (({"penalty": 0.1}, False), ({"target_heads": 1}, True)):
        with GateSchedule(**options).competing(gates):
            assert (gates["encoder.0"].pull is not None) == pulled
        assert gates["encoder.0"].pull is None
    gates["encoder.0"].fix([True, False])
    with GateSchedule(target_heads=1).competing(gates):
        assert gates["encoder.0"].pull is None


def test_what_cannot_begin():
    with pytest.raises(UserError, match="give a goal for learning the gates"):
        GateSchedule().begin(gates_of([1.0]), 0)
    GateSchedule(penalty=0.0).begin(gates_of([1.0]), 0)  # 0 is a goal that was given
    with pytest.raises(UserError, match="--target-heads 4: must be 0 to 3, .*encoder.0 3"):
        GateSchedule(target_heads=4).begin(gates_of([1.0, 2.0, 3.0]), 0)
    fixed = gates_of([1.0, 2.0])
    fixed["encoder.0"].fix([True, False])
    GateSchedule(target_heads=1).begin(fixed, 0)
    with pytest.raises(UserError, match="--target-heads 2: the gates .* already fixed, 1 open"):
        GateSchedule(target_heads=2).begin(fixed, 0)
