"""What open heads cost, and the multipliers that hold their number."""

import pytest
import torch

from user_dir.modules.gate_budget import GateBudget, expected_open, mean_by_type, ramp
from user_dir.modules.hard_concrete import HardConcreteGate


def _gates(**log_alphas):
    gates = {}
    for key, values in log_alphas.items():
        gate = HardConcreteGate(len(values))
        gate.set_log_alpha(torch.tensor(values))
        gates[key.replace("_", ".")] = gate
    return gates


def test_the_penalty_is_the_mean_of_each_type_summed_over_types():
    gates = _gates(encoder_0=[0.0, 1.0], encoder_1=[2.0], cross_0=[-1.0])
    p = {key: gate.open_probability().tolist() for key, gate in gates.items()}
    expected = (sum(p["encoder.0"]) + sum(p["encoder.1"])) / 3 + p["cross.0"][0]
    assert mean_by_type(gates, expected_open(gates)).item() == pytest.approx(expected)


def test_the_term_is_the_lagrangian():
    budget = GateBudget()
    budget.multipliers.copy_(torch.tensor([0.5, 0.25]))
    gap = torch.tensor(3.0, requires_grad=True)
    term = budget.term(gap)
    budget.ascend(gap, 8, 0.01)  # between forward and backward, as it may happen
    term.backward()
    assert term.item() == pytest.approx(0.5 * 3 + 0.25 * 9)
    assert gap.grad.item() == pytest.approx(0.5 + 2 * 0.25 * 3)


def test_the_price_goes_up_and_comes_down_faster():
    budget = GateBudget()
    budget.ascend(torch.tensor(4.0), 8, 0.1)
    assert budget.multipliers.tolist() == pytest.approx([0.05, 0.05])
    budget.ascend(torch.tensor(-0.8), 8, 0.1)
    assert budget.multipliers.tolist() == pytest.approx([0.0, 0.06], abs=1e-7)
    budget.ascend(torch.tensor(-0.8), 8, 0.1)
    assert budget.multipliers.tolist() == pytest.approx([-0.01, 0.07])


@pytest.mark.parametrize("target", [1, 4, 9])
def test_expected_heads_settle_at_the_target_and_the_best_stay(target):
    torch.manual_seed(0)
    worth = torch.linspace(0.001, 0.06, 12)  # of a head, in nats
    gate, budget = HardConcreteGate(12, lr_scale=32.0), GateBudget()
    optimizer = torch.optim.Adam(gate.parameters(), lr=5e-4)
    lowest = 12.0
    for update in range(900):
        gap = gate.open_probability().sum() - ramp(12, target, update, 300)
        budget.ascend(gap, 12, 0.01)
        loss = (worth * (1 - gate())).sum() + budget.term(gap)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lowest = min(lowest, gate.open_probability().sum().item())
    chances = gate.open_probability().detach()
    assert chances.sum().item() == pytest.approx(target, abs=0.25)
    assert lowest > target - 0.8  # not all heads are closed on the way
    kept = set(chances.topk(target).indices.tolist())
    assert len(kept & set(range(12 - target, 12))) >= target - 1


def test_multipliers_stay_in_fp32():
    budget = GateBudget()
    budget.ascend(torch.tensor(1.0), 3, 0.1234567)
    before = budget.multipliers.clone()
    assert torch.equal(budget.half().multipliers, before)
    budget.reset()
    assert budget.multipliers.tolist() == [0, 0]


def test_ramp():
    assert [ramp(8, 2, u, 4) for u in (0, 2, 4, 9)] == [8, 5, 2, 2]
    assert ramp(8, 2, 0, 0) == 2
