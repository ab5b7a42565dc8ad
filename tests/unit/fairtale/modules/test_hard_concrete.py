"""Hard concrete gates, compared with the formulas in fp64."""

import math

import numpy as np
import pytest
import torch

from fairtale.errors import UserError
from fairtale.modules.hard_concrete import HardConcreteGate

SETTINGS = [(0.33, -0.1, 1.1), (2 / 3, -0.1, 1.1), (0.5, -0.3, 1.2)]
SAMPLES = 1_000_000


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _logit(p):
    return math.log(p / (1 - p))


def _gate(num_heads=1, log_alpha=0.0, **options):
    gate = HardConcreteGate(num_heads, **options)
    gate.set_log_alpha(log_alpha)
    return gate


@pytest.mark.parametrize("temperature, low, high", SETTINGS)
@pytest.mark.parametrize("log_alpha", [-2.0, 0.3, 2.5])
def test_a_million_samples_have_the_distribution(temperature, low, high, log_alpha):
    torch.manual_seed(1)
    options = {"temperature": temperature, "low": low, "high": high}
    gate = _gate(SAMPLES, log_alpha, **options)
    drawn = gate().detach().double()
    # u on a fine grid instead of random values, for fp64 references of mass and mean
    u = (np.arange(SAMPLES) + 0.5) / SAMPLES
    s = 1 / (1 + np.exp(-(np.log(u) - np.log1p(-u) + log_alpha) / temperature))
    reference = np.clip(s * (high - low) + low, 0, 1)
    closed = _sigmoid(temperature * _logit(-low / (high - low)) - log_alpha)
    opened = 1 - _sigmoid(temperature * _logit((1 - low) / (high - low)) - log_alpha)
    five_sigma = 5 * 0.5 / math.sqrt(SAMPLES)
    assert (drawn == 0).double().mean().item() == pytest.approx(closed, abs=five_sigma)
    assert (drawn == 1).double().mean().item() == pytest.approx(opened, abs=five_sigma)
    assert drawn.mean().item() == pytest.approx(reference.mean(), abs=five_sigma)
    assert drawn.var().item() == pytest.approx(reference.var(), abs=2e-3)
    assert gate.open_probability()[0].item() == pytest.approx(1 - closed, abs=1e-6)


@pytest.mark.parametrize("log_alpha", [-3.0, -0.8, 0.0, 1.0, 4.0])
def test_the_probability_to_be_open_in_64_bits(log_alpha):
    gate = HardConcreteGate(1).double()
    gate.set_log_alpha(log_alpha)
    expected = _sigmoid(log_alpha - 0.33 * math.log(0.1 / 1.1))
    assert gate.open_probability().item() == pytest.approx(expected, abs=1e-12)
    value = min(1.0, max(0.0, _sigmoid(log_alpha) * 1.2 - 0.1))
    assert gate.eval()().item() == pytest.approx(value, abs=1e-12)


def test_gradients_are_right():
    gate = HardConcreteGate(6).double()

    def sampled(log_alpha):
        torch.manual_seed(3)  # the same noise in every call
        other = HardConcreteGate(6).double()
        del other.scaled_log_alpha
        other.scaled_log_alpha = log_alpha
        return other()

    def chances(log_alpha):
        other = HardConcreteGate(6).double()
        del other.scaled_log_alpha
        other.scaled_log_alpha = log_alpha
        return other.open_probability()

    point = torch.tensor([-1.5, -0.5, -0.1, 0.1, 0.5, 1.2], dtype=torch.float64)
    point.requires_grad_()
    torch.manual_seed(3)
    gate.set_log_alpha(point.detach())
    assert ((gate() > 0) & (gate() < 1)).any()  # there are gradients to be checked
    assert torch.autograd.gradcheck(sampled, (point,))
    assert torch.autograd.gradcheck(chances, (point,))


def test_one_draw_a_head_and_call_and_none_in_evaluation():
    torch.manual_seed(0)
    gate = _gate(64)
    first, second = gate(), gate()
    assert not torch.equal(first, second)
    assert first.unique().numel() > 10  # each head has its own random number
    gate.eval()
    assert torch.equal(gate(), gate())


def test_the_first_value_is_open_in_evaluation():
    assert torch.equal(HardConcreteGate(4).eval()(), torch.ones(4))


def test_fixed_gates_stay_in_training_and_cost_no_noise():
    gate = _gate(4)
    gate.fix([True, False, True, False])
    for training in (True, False):
        state = torch.get_rng_state()
        assert gate.train(training)().tolist() == [1, 0, 1, 0]
        assert torch.equal(torch.get_rng_state(), state)
    assert gate.is_fixed and gate.open_probability().tolist() == [1, 0, 1, 0]
    gate.learn()
    assert gate.state == "learned" and gate.open_probability()[1] > 0.5


def test_gates_that_are_not_learned_give_a_gradient_of_zero():
    gate = _gate(3)
    for prepare in (gate.leave_open, lambda: gate.fix([1, 0, 1])):
        gate.zero_grad()
        prepare()
        gate().sum().backward()  # data-parallel training needs a gradient of every parameter
        assert gate.scaled_log_alpha.grad.tolist() == [0, 0, 0]


def test_a_checkpoint_keeps_log_alpha_and_the_state_whatever_the_learning_rate():
    gate = _gate(3, torch.tensor([0.1, -2.0, 3.0]), lr_scale=32.0)
    for prepare in (gate.learn, gate.leave_open, lambda: gate.fix([0, 1, 1])):
        prepare()
        state = gate.state_dict()
        assert set(state) == {"log_alpha", "fixed"}
        assert torch.equal(state["log_alpha"], torch.tensor([0.1, -2.0, 3.0]))
        other = HardConcreteGate(3, lr_scale=5.0)
        other.load_state_dict(state)
        assert torch.allclose(other.log_alpha, gate.log_alpha)
        assert other.state == gate.state and torch.equal(other.value(), gate.value())


def test_a_larger_lr_scale_moves_gates_faster_and_changes_nothing_else():
    gates = [_gate(2, 0.5, lr_scale=scale) for scale in (1.0, 16.0)]
    moved = []
    for gate in gates:
        assert torch.equal(gate.log_alpha, torch.tensor([0.5, 0.5]))
        optimizer = torch.optim.Adam(gate.parameters(), lr=1e-3)
        gate.open_probability().sum().backward()
        optimizer.step()
        moved.append(0.5 - gate.log_alpha[0].item())
    assert moved[1] == pytest.approx(16 * moved[0], rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gates_stay_in_fp32_where_weights_are_halves(dtype):
    module = torch.nn.Sequential(_gate(3, 0.123456), torch.nn.Linear(2, 2)).to(dtype)
    assert module[0].scaled_log_alpha.dtype == torch.float32
    assert module[0].log_alpha[0].item() == pytest.approx(0.123456, abs=1e-7)
    assert module[1].weight.dtype == dtype


def test_missing_and_surplus_keys_are_told():
    gate = _gate(2)
    with pytest.raises(RuntimeError, match="(?s)Missing.*log_alpha.*Unexpected"):
        gate.load_state_dict({"fixed": gate.fixed, "other": gate.fixed})
    with pytest.raises(UserError, match="3 gates at log_alpha, but the model has 2 heads"):
        gate.load_state_dict(_gate(3).state_dict())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0.0}, "--gate-temperature 0.0: must be above 0"),
        ({"low": 0.0}, "--gate-low 0.0 --gate-high 1.1: low must be below 0"),
        ({"high": 1.0}, "high above 1"),
        ({"lr_scale": 0.0}, "--gate-lr-scale 0.0"),
        ({"init_log_alpha": math.inf}, "--gate-init-log-alpha inf"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(UserError, match=message):
        HardConcreteGate(2, **options)
