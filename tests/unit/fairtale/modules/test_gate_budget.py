"""The penalty on open heads, and the control of their number."""

import pytest
import torch

from fairtale.modules.gate_budget import competing, expected_open, hold_expected, mean_by_type, ramp
from fairtale.modules.hard_concrete import HardConcreteGate


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


@pytest.mark.parametrize("target, expected", [(0, 0.04), (1, 1), (2.5, 2.5), (4, 3.96)])
def test_exactly_so_many_heads_are_expected_open(target, expected):
    gates = _gates(encoder_0=[0.0, 9.0], encoder_1=[-30.0], cross_0=[2.0])
    gates["cross.0"].temperature = 0.5  # its P(open) is another function of log-alpha
    before = torch.cat([gate.log_alpha.detach() for gate in gates.values()])
    shift = hold_expected(gates, target)
    after = torch.cat([gate.log_alpha.detach() for gate in gates.values()])
    torch.testing.assert_close(before - after, torch.full((4,), shift), atol=1e-5, rtol=0)
    assert sum(expected_open(gates).values()).item() == pytest.approx(expected, abs=1e-5)


def test_the_gradient_is_that_of_the_constrained_gates():
    """The gradient is the one through the shift that controls the number."""
    gates = _gates(encoder_0=[0.3, -0.7, 1.5], cross_0=[0.1, -2.0])
    worth = torch.tensor([0.3, 0.1, 0.5, 0.2, 0.4])

    def earned(shift=0.0):
        logits = [gate.log_alpha - gate.closing_log_alpha - shift for gate in gates.values()]
        return worth @ torch.cat(logits).sigmoid()

    parameters = [gate.scaled_log_alpha for gate in gates.values()]
    hold_expected(gates, 2.0)
    with competing(gates):
        found = torch.autograd.grad(earned(next(iter(gates.values())).pull), parameters)
    step = 1e-2
    for parameter, gradient in zip(parameters, found):
        for i in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                kept = [p.detach().clone() for p in parameters]
                with torch.no_grad():
                    parameter[i] += sign * step
                hold_expected(gates, 2.0)
                values.append(earned().item())
                for p, old in zip(parameters, kept):
                    p.data.copy_(old)
            slope = (values[0] - values[1]) / (2 * step)
            assert gradient[i].item() == pytest.approx(slope, abs=2e-4)


def test_competing_changes_no_value():
    (gate,) = _gates(encoder_0=[0.3, -0.7, 1.5]).values()
    torch.manual_seed(3)
    plain = gate()
    torch.manual_seed(3)
    with competing({"encoder.0": gate}):
        assert torch.equal(gate(), plain)
    assert gate.pull is None


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("target", [2, 4, 9])
def test_the_best_heads_stay(target, noise):
    """The best heads are found even if the gradients of batches are very noisy."""
    torch.manual_seed(0)
    worth = torch.linspace(0.001, 0.06, 12)[torch.randperm(12)]  # of a head, in nats
    gates = {f"encoder.{i}": HardConcreteGate(6, lr_scale=32.0) for i in range(2)}
    parameters = [p for gate in gates.values() for p in gate.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-4)
    for update in range(900):
        hold_expected(gates, ramp(12, target, update, 100))
        with competing(gates):
            drawn = torch.cat([gate() for gate in gates.values()])
        loss = ((worth + noise * torch.randn(12)) * (1 - drawn)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chances = torch.cat([gate.open_probability().detach() for gate in gates.values()])
    kept = set(chances.topk(target).indices.tolist())
    assert len(kept & set(worth.topk(target).indices.tolist())) >= target - 1
    assert chances[worth.topk(target // 2).indices].min() > 0.3 + 0.3 * (target > 3)
    assert chances[(-worth).topk(3).indices].max() < 0.3


def test_ramp():
    assert [ramp(8, 2, u, 4) for u in (0, 2, 4, 9)] == [8, 5, 2, 2]
    assert ramp(8, 2, 0, 0) == 2
