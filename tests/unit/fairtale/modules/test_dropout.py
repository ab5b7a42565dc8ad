"""The fast CPU dropout: its rate, its scale and its random numbers."""

import math

import numpy as np
import pytest
import torch

from fairtale.modules.dropout import dropout, dropout_add, dropout_scale


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_rate_scale_and_mean(p):
    torch.manual_seed(1)
    count = 400_000
    scale = dropout_scale((count,), p, torch.float64)
    exact = round(p * 65536) / 65536
    assert abs(exact - p) <= 2**-17
    assert set(scale.unique().tolist()) == {0.0, 1 / (1 - exact)}
    dropped = (scale == 0).double().mean().item()
    sigma = math.sqrt(p * (1 - p) / count)
    assert abs(dropped - p) < 4 * sigma + 2**-17
    assert abs(scale.mean().item() - 1) < 4 * sigma / (1 - p)


def test_numbers_of_one_draw_are_independent():
    torch.manual_seed(2)
    count = 400_000
    kept = (dropout_scale((count,), 0.5, torch.float64) > 0).double() - 0.5
    # four numbers come from one 64-bit number; neighbours must be independent
    for distance in (1, 2, 3, 4, 5, 64):
        correlation = (kept[distance:] * kept[:-distance]).mean().item() / 0.25
        assert abs(correlation) < 4 / math.sqrt(count), distance


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 0, 4), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_shape_and_type(shape, dtype):
    scale = dropout_scale(shape, 0.25, dtype)
    assert scale.shape == shape and scale.dtype == dtype
    assert dropout(torch.ones(shape, dtype=dtype), 0.25, True).dtype == dtype


def test_extreme_rates():
    torch.manual_seed(3)
    assert (dropout_scale((100_000,), 1e-7, torch.float32) == 1).all()
    nearly_all = dropout_scale((100_000,), 1 - 1e-7, torch.float32)
    assert nearly_all.isfinite().all() and (nearly_all == 0).double().mean() > 0.9999


def test_manual_seed_repeats_and_calls_differ():
    x = torch.randn(50, 50)
    torch.manual_seed(4)
    first, second = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.manual_seed(4)
    np.random.seed(123)  # NumPy's global random state has no influence
    again = dropout(x, 0.5, True)
    torch.manual_seed(5)
    other = dropout(x, 0.5, True)
    assert torch.equal(first, again)
    assert not torch.equal(first, second) and not torch.equal(first, other)


def test_numpy_stream_is_left_alone():
    np.random.seed(6)
    expected = np.random.rand()
    np.random.seed(6)
    dropout(torch.ones(10), 0.5, True)
    assert np.random.rand() == expected


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_gradient_has_the_mask_of_the_forward_pass(p):
    x = torch.randn(40, 30).abs().add(0.1).requires_grad_()
    y = dropout(x, p, True)
    weight = torch.randn(40, 30)
    (y * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight * (y / x).detach())
    assert ((x.grad == 0) == (y == 0)).all() and (y == 0).any()


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_add_is_residual_plus_dropout(p, training):
    residual, x = torch.randn(2, 20, 30, requires_grad=True).unbind(0)
    torch.manual_seed(7)
    expected = residual + dropout(x, p, training)
    torch.manual_seed(7)
    torch.testing.assert_close(dropout_add(residual, x, p, training), expected)


def test_nothing_is_done_without_dropout_or_training():
    x = torch.randn(5)
    assert dropout(x, 0.0, True) is x
    assert dropout(x, 0.5, False) is x


def test_everything_is_dropped_at_one():
    x = torch.randn(1_000_000, requires_grad=True)
    y = dropout(x, 1.0, True)
    y.sum().backward()
    assert (y == 0).all() and (x.grad == 0).all()


def test_strided_input():
    x = torch.randn(6, 4).t()
    torch.manual_seed(8)
    y = dropout(x, 0.5, True)
    torch.manual_seed(8)
    assert torch.equal(y, dropout(x.contiguous(), 0.5, True))


@pytest.mark.gpu
def test_gpu_uses_its_own_stream():
    x = torch.ones(100_000, device="cuda")
    torch.manual_seed(9)
    y = dropout(x, 0.25, True)
    torch.manual_seed(9)
    assert torch.equal(y, dropout(x, 0.25, True))
    assert abs((y == 0).double().mean().item() - 0.25) < 0.01
