"""Operations on lists of tensors give what fairseq's operations on single ones give."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import utils
from fairseq.optim.adam import Adam
from fairseq.optim.fp16_optimizer import FP16Optimizer
from torch import nn

from fairtale.optim import multi_tensor

SHAPES = [(7, 5), (5,), (3, 4, 2), (1,), (6,)]
multi_tensor.install()
one_by_one = Adam.step.__wrapped__


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(multi_tensor, "is_worthwhile", lambda tensors: len(tensors) > 1)
    monkeypatch.setattr(multi_tensor, "MAX_ELEMENTS", 30)  # several lists


def parameters(device="cpu"):
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(shape, device=device)) for shape in SHAPES]


def adam(params):
    halves = [
        {"params": params[:3], "lr": 0.03},
        {"params": params[3:], "lr": 0.1, "weight_decay": 0.0},
    ]
    return Adam(halves, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)


def run(step, device="cpu", without=()):
    """Take five steps; ``without`` names parameters that have no gradient in the second one."""
    params = parameters(device)
    optimizer = adam(params)
    for number in range(5):
        for index, parameter in enumerate(params):
            generator = torch.Generator().manual_seed(100 * number + index)
            gradient = torch.randn(parameter.shape, generator=generator).to(device)
            parameter.grad = None if number == 1 and index in without else gradient
        step(optimizer)
    return params, optimizer


@pytest.mark.parametrize("without", [(), (1, 4)])  # these then have other numbers of steps
def test_adam_is_fairseqs_to_the_bit(on_a_cpu, monkeypatch, without):
    calls = []
    update = multi_tensor._update
    monkeypatch.setattr(multi_tensor, "_update", lambda *a: (calls.append(a), update(*a)))
    expected, theirs = run(one_by_one, without=without)
    assert not calls
    found, ours = run(Adam.step, without=without)
    assert len(calls) > 5
    for mine, their in zip(found, expected, strict=True):
        assert torch.equal(mine, their)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            one, other = ours.state[mine][name], theirs.state[their][name]
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.gpu
def test_adam_is_fairseqs_on_a_gpu():
    for mine, their in zip(run(Adam.step, "cuda")[0], run(one_by_one, "cuda")[0], strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-6, atol=1e-7)


def test_a_cpu_keeps_fairseqs_steps(monkeypatch):
    monkeypatch.setattr(multi_tensor, "_update", None)  # a call would fail
    run(Adam.step)


def test_states_in_16_bits_are_left_to_fairseq(on_a_cpu, monkeypatch):
    params, optimizer = run(Adam.step)
    for state in optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].half()
    monkeypatch.setattr(multi_tensor, "_update", None)
    Adam.step(optimizer)
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float32


def half_optimizer():
    params = [nn.Parameter(p.detach().bfloat16()) for p in parameters()]
    params[2].requires_grad_(False)
    cfg = SimpleNamespace(optimizer=None, common=SimpleNamespace(bf16=True))
    copies = FP16Optimizer.build_fp32_params(None, params, flatten=False)
    optimizer = FP16Optimizer.__new__(FP16Optimizer)
    optimizer.fp16_params, optimizer.fp32_params, optimizer.cfg = params, copies, cfg
    optimizer._needs_sync = True
    return optimizer


def sync_twice(to_fp32, from_fp32):
    optimizer = half_optimizer()
    for number in range(2):
        for index, parameter in enumerate(optimizer.fp16_params):
            if index != 3 or number:  # one has no gradient in the first update
                torch.manual_seed(10 * number + index)
                parameter.grad = torch.randn(parameter.shape).bfloat16()
        optimizer._needs_sync = True
        to_fp32(optimizer)
        assert not optimizer._needs_sync
        for copy in optimizer.fp32_params:
            if copy.grad is not None:
                copy.data.add_(copy.grad)
        from_fp32(optimizer)
    return optimizer


def test_copies_in_fp32_are_fairseqs(on_a_cpu):
    ours = sync_twice(
        FP16Optimizer._sync_fp16_grads_to_fp32, FP16Optimizer._sync_fp32_params_to_fp16
    )
    theirs = sync_twice(
        FP16Optimizer._sync_fp16_grads_to_fp32.__wrapped__,
        FP16Optimizer._sync_fp32_params_to_fp16.__wrapped__,
    )
    for mine, their in zip(ours.fp16_params, theirs.fp16_params, strict=True):
        assert torch.equal(mine, their)
    for mine, their in zip(ours.fp32_params, theirs.fp32_params, strict=True):
        assert torch.equal(mine, their)
        assert (mine.grad is None) == (their.grad is None)
        if mine.grad is not None:
            assert torch.equal(mine.grad, their.grad) and mine.grad.dtype == torch.float32


def test_the_norm_is_that_of_all_gradients(on_a_cpu):
    params = parameters()
    for parameter in params:
        parameter.grad = parameter.detach().clone()
    whole = torch.cat([p.detach().flatten() for p in params]).norm()
    torch.testing.assert_close(multi_tensor.total_norm([p.grad for p in params]), whole)
    torch.testing.assert_close(utils.clip_grad_norm_(params, 0.5), whole)
    clipped = torch.cat([p.grad.flatten() for p in params]).norm()
    torch.testing.assert_close(clipped, torch.tensor(0.5))
    assert not utils.multi_tensor_l2norm_available
