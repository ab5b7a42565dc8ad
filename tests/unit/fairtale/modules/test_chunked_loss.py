"""Tests of the chunked projection and loss against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

from fairtale.modules import chunked_loss
from fairtale.modules.chunked_loss import (
    chunk_rows,
    chunked_cross_entropy,
    smoothed_target_entropy,
    whole_cross_entropy,
)

PAD = 1


def make(num_tokens=37, num_symbols=23, channels=5, dtype=torch.float64, device="cpu"):
    """Return features, weight and targets without padding, the same in every call."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(num_tokens, channels, generator=generator, dtype=torch.float64)
    weight = torch.randn(num_symbols, channels, generator=generator, dtype=torch.float64)
    target = torch.randint(2, num_symbols, (num_tokens,), generator=generator)
    return (
        features.to(device, dtype).requires_grad_(),
        weight.to(device, dtype).requires_grad_(),
        target.to(device),
    )


def make_token_weight(num_tokens=37):
    return torch.rand(num_tokens, generator=torch.Generator().manual_seed(3)) + 0.5


def smoothed(target, num_symbols, eps, pad=PAD):
    """Return q [N, V] by its definition, in fp64."""
    num_real = num_symbols - (pad is not None)
    q = torch.full((len(target), num_symbols), eps / (num_real - 1), dtype=torch.float64)
    if pad is not None:
        q[:, pad] = 0
    q[torch.arange(len(target)), target] = 1 - eps
    return q


def plain_cross_entropy(features, weight, target, eps, pad=PAD):
    """Return H(q, p) of every token."""
    lprobs = F.log_softmax(features.double() @ weight.double().t(), dim=1)
    return -(smoothed(target, weight.size(0), eps, pad) * lprobs).sum(1)


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut a few dozen tokens into several chunks, the last one shorter."""
    monkeypatch.setattr(chunked_loss, "MIN_AUTO_ROWS", 8)
    monkeypatch.setattr(chunked_loss, "CPU_CHUNK_MIB", 0)
    monkeypatch.setattr(chunked_loss, "ROW_TILE", 4)


def test_hand_computed():
    """Logits (0, 0, ln 2, ln 3): p = (1/7, 1/7, 2/7, 3/7); eps 0.2 over 3 real symbols."""
    features = torch.ones(1, 1)
    weight = torch.tensor([[0.0], [0.0], [math.log(2)], [math.log(3)]])
    sums = chunked_cross_entropy(
        features, weight, torch.tensor([2]), eps=0.2, padding_idx=PAD, count_correct=True
    )
    expected = 0.8 * math.log(7 / 2) + 0.1 * math.log(7) + 0.1 * math.log(7 / 3)
    assert sums.loss.item() == pytest.approx(expected, rel=1e-6)
    assert sums.cross_entropy.item() == pytest.approx(expected, rel=1e-6)
    assert sums.nll.item() == pytest.approx(math.log(7 / 2), rel=1e-6)
    assert sums.num_correct.item() == 0


def test_hand_computed_gradient():
    """d H / d logits = p - q, with q = (0.1, 0, 0.8, 0.1)."""
    features = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[0.0], [0.0], [math.log(2)], [math.log(3)]], requires_grad=True)
    chunked_cross_entropy(
        features, weight, torch.tensor([2]), eps=0.2, padding_idx=PAD
    ).loss.backward()
    by_logits = [1 / 7 - 0.1, 1 / 7, 2 / 7 - 0.8, 3 / 7 - 0.1]
    assert weight.grad.flatten().tolist() == pytest.approx(by_logits, rel=1e-5)
    expected = by_logits[2] * math.log(2) + by_logits[3] * math.log(3)
    assert features.grad.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("pad", [PAD, None, 0])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_definition(small_chunks, eps, pad, weighted):
    features, weight, target = make()
    token_weight = make_token_weight() if weighted else None
    sums = chunked_cross_entropy(
        features, weight, target, token_weight, eps=eps, padding_idx=pad, count_correct=True
    )
    grads = torch.autograd.grad(sums.loss * 3, (features, weight))
    each = plain_cross_entropy(features, weight, target, eps, pad)
    nll = plain_cross_entropy(features, weight, target, 0.0, pad).detach()
    factor = token_weight.double() if weighted else torch.ones_like(nll)
    loss = (each * factor).sum()
    torch.testing.assert_close(sums.loss, loss)
    torch.testing.assert_close(sums.nll, nll.sum())
    torch.testing.assert_close(sums.weighted_nll, (nll * factor).sum())
    torch.testing.assert_close(sums.cross_entropy, each.sum().detach())
    torch.testing.assert_close(grads, torch.autograd.grad(loss * 3, (features, weight)))
    logits = features @ weight.t()
    assert sums.num_correct.item() == (logits.argmax(1) == target).sum().item()


@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(small_chunks, eps, weighted):
    features, weight, target = make(num_tokens=11, num_symbols=7, channels=3)
    token_weight = make_token_weight(11) if weighted else None

    def loss(features, weight):
        return chunked_cross_entropy(
            features, weight, target, token_weight, eps=eps, padding_idx=PAD
        ).loss

    assert torch.autograd.gradcheck(loss, (features, weight))


def test_equals_torch_and_fairseq_without_smoothing(small_chunks):
    features, weight, target = make(dtype=torch.float32)
    ours = chunked_cross_entropy(features, weight, target, padding_idx=PAD).loss
    logits = F.linear(features, weight)
    theirs = F.cross_entropy(logits, target, reduction="sum", ignore_index=PAD)
    fairseq, _ = label_smoothed_nll_loss(F.log_softmax(logits, 1), target, 0.0, ignore_index=PAD)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours, fairseq, rtol=1e-6, atol=1e-6)
    inputs = (features, weight)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), rtol=1e-5, atol=1e-6
    )


def test_equals_fairseq_smoothing_without_padding(small_chunks):
    """fairseq smooths over all V symbols, as this loss does without a padding symbol."""
    features, weight, target = make()
    ours = chunked_cross_entropy(features, weight, target, eps=0.1).loss
    lprobs = F.log_softmax(F.linear(features, weight), 1)
    fairseq, _ = label_smoothed_nll_loss(lprobs, target, 0.1)
    torch.testing.assert_close(ours, fairseq)


def test_cross_entropy_less_entropy_is_kl(small_chunks):
    features, weight, target = make()
    q = smoothed(target, weight.size(0), 0.1)
    lprobs = F.log_softmax(features @ weight.t(), 1)
    kl = F.kl_div(lprobs, q, reduction="sum")
    ours = chunked_cross_entropy(features, weight, target, eps=0.1, padding_idx=PAD).loss
    entropy = smoothed_target_entropy(0.1, weight.size(0) - 1)[2]
    torch.testing.assert_close(ours - len(target) * entropy, kl)


def test_no_gradient_at_the_optimum():
    """p = q where the logits are log q: the KL and its gradients vanish."""
    q = smoothed(torch.tensor([4]), 9, 0.3)
    weight = q.clamp_min(1e-30).log().t().contiguous().requires_grad_()
    features = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    loss = chunked_cross_entropy(features, weight, torch.tensor([4]), eps=0.3, padding_idx=PAD).loss
    assert loss.item() == pytest.approx(smoothed_target_entropy(0.3, 8)[2], abs=1e-12)
    loss.backward()
    torch.testing.assert_close(weight.grad, torch.zeros_like(weight), rtol=0, atol=1e-12)
    assert features.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_chunk_size_changes_nothing(eps):
    results = []
    for mib in (1, 2, 64):
        features, weight, target = make(1000, 2000, 16, torch.float32)
        loss = chunked_cross_entropy(
            features, weight, target, eps=eps, padding_idx=PAD, chunk_mib=mib
        ).loss
        (loss / len(target)).backward()
        results.append((loss.detach() / len(target), features.grad, weight.grad))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-6, atol=1e-6)


def test_number_of_rows_in_a_chunk():
    assert chunk_rows(100, 4 * 5120, 32, 128) == 100
    assert chunk_rows(4000, 4 * 5120, 32, 128) == 1344  # three equal chunks, not 1600
    assert chunk_rows(4000, 4 * 200_000, 1, 128) == 128
    assert chunk_rows(0, 4, 1, 128) == 1


def test_exact_where_the_target_is_hopeless():
    """p of the target underflows in fp32; nll does not become infinite."""
    features = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[0.0], [0.0], [-500.0], [500.0]])
    sums = chunked_cross_entropy(features, weight, torch.tensor([2]), padding_idx=PAD)
    assert sums.nll.item() == pytest.approx(1000.0)
    sums.loss.backward()
    assert features.grad.item() == pytest.approx(1000.0)


def test_no_tokens():
    features, weight, _ = make(dtype=torch.float32)
    target = torch.empty(0, dtype=torch.int64)
    sums = chunked_cross_entropy(
        features[:0], weight, target, eps=0.1, padding_idx=PAD, count_correct=True
    )
    sums.loss.backward()
    assert sums.loss.item() == sums.nll.item() == sums.num_correct.item() == 0
    assert not weight.grad.any()


def test_gradient_of_one_input_only():
    features, weight, target = make()
    for one, other in ((features, weight), (weight, features)):
        other.requires_grad_(False)
        loss = chunked_cross_entropy(features, weight, target, eps=0.1, padding_idx=PAD).loss
        plain = plain_cross_entropy(features, weight, target, 0.1).sum()
        torch.testing.assert_close(torch.autograd.grad(loss, one), torch.autograd.grad(plain, one))
        other.requires_grad_()


def test_tied_weight_gathers_both_gradients():
    _, weight, target = make()

    def gradient(loss_function):
        features = F.embedding(target.roll(1), weight).tanh()
        return torch.autograd.grad(loss_function(features), weight)[0]

    ours = gradient(lambda x: chunked_cross_entropy(x, weight, target).loss)
    plain = gradient(lambda x: F.cross_entropy(x @ weight.t(), target, reduction="sum"))
    torch.testing.assert_close(ours, plain)


def test_backward_twice():
    features, weight, target = make()
    inputs = (features, weight)
    loss = chunked_cross_entropy(features, weight, target, eps=0.1, padding_idx=PAD).loss
    first = torch.autograd.grad(loss * 2, inputs, retain_graph=True)
    second = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(first, tuple(2 * x for x in second))


def test_double_backward_is_refused():
    features, weight, target = make()
    loss = chunked_cross_entropy(features, weight, target).loss
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, features, create_graph=True)


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_bf16(small_chunks, eps, weighted):
    features, weight, target = make(dtype=torch.bfloat16)
    token_weight = make_token_weight() if weighted else None
    sums = chunked_cross_entropy(features, weight, target, token_weight, eps=eps, padding_idx=PAD)
    sums.loss.backward()
    assert sums.loss.dtype == torch.float32
    assert features.grad.dtype == weight.grad.dtype == torch.bfloat16
    exact = [x.detach().double().requires_grad_() for x in (features, weight)]
    factor = token_weight.double() if weighted else 1.0
    loss = (plain_cross_entropy(*exact, target, eps) * factor).sum()
    loss.backward()
    # bf16 has 8 bits of precision, and the logits are rounded to it
    torch.testing.assert_close(sums.loss.double(), loss, rtol=1e-2, atol=0)
    for ours, theirs in zip((features, weight), exact, strict=True):
        error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-2


def test_autocast_equals_bf16_and_keeps_fp32_gradients(small_chunks):
    features, weight, target = make(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(features, weight, target, eps=0.1, padding_idx=PAD).loss
    loss.backward()
    assert features.grad.dtype == weight.grad.dtype == torch.float32
    halves = [x.detach().bfloat16().requires_grad_() for x in (features, weight)]
    same = chunked_cross_entropy(*halves, target, eps=0.1, padding_idx=PAD).loss
    same.backward()
    torch.testing.assert_close(loss, same)
    torch.testing.assert_close(weight.grad.bfloat16(), halves[1].grad)


def test_fp16_loss_scale_does_not_overflow():
    """The scaled sum exceeds the range of fp16, but the gradients do not."""
    features, weight, target = make(4096, 50, 8, torch.float16)
    scale = 2.0**12
    loss = chunked_cross_entropy(features, weight, target, eps=0.1, padding_idx=PAD).loss
    (loss * scale / len(target)).backward()
    assert loss.item() * scale > 1e7
    exact = [x.detach().double().requires_grad_() for x in (features, weight)]
    (plain_cross_entropy(*exact, target, 0.1).mean() * scale).backward()
    for ours, theirs in zip((features, weight), exact, strict=True):
        assert ours.grad.dtype == torch.float16
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_whole_equals_chunked(small_chunks, eps):
    features, weight, target = make()
    token_weight = make_token_weight()
    options = dict(eps=eps, padding_idx=PAD, count_correct=True)
    chunked = chunked_cross_entropy(features, weight, target, token_weight, **options)
    lprobs = F.log_softmax(features @ weight.t(), 1)
    whole = whole_cross_entropy(lprobs, target, token_weight, **options)
    torch.testing.assert_close(tuple(chunked), tuple(whole))
    inputs = (features, weight)
    torch.testing.assert_close(
        torch.autograd.grad(chunked.loss, inputs), torch.autograd.grad(whole.loss, inputs)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda f, w, t: (f[:, :3], w, t),
        lambda f, w, t: (f, w, t[:5]),
        lambda f, w, t: (f, w, t.int()),
        lambda f, w, t: (f.float(), w, t),
        lambda f, w, t: (f, w, t, torch.ones(3)),
        lambda f, w, t: (f, w, t, torch.ones(37, requires_grad=True)),
    ],
)
def test_bad_arguments(change):
    with pytest.raises(ValueError):
        chunked_cross_entropy(*change(*make()))


@pytest.mark.parametrize("eps", [-0.1, 1.0, float("nan")])
def test_bad_smoothing(eps):
    with pytest.raises(ValueError, match="eps"):
        chunked_cross_entropy(*make(), eps=eps)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_gpu_equals_definition(dtype, eps, weighted):
    features, weight, target = make(1000, 4000, 64, dtype, "cuda")
    with torch.no_grad():
        weight.mul_(0.2)
    token_weight = make_token_weight(1000).cuda() if weighted else None
    sums = chunked_cross_entropy(
        features,
        weight,
        target,
        token_weight,
        eps=eps,
        padding_idx=PAD,
        chunk_mib=4,
        count_correct=True,
    )
    sums.loss.backward()
    exact = [x.detach().cpu().double().requires_grad_() for x in (features, weight)]
    each = plain_cross_entropy(*exact, target.cpu(), eps)
    loss = (each * (token_weight.cpu().double() if weighted else 1.0)).sum()
    loss.backward()
    # products are summed and stored in fp32, so only p is rounded
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
    torch.testing.assert_close(sums.loss.cpu().double(), loss, rtol=1e-5, atol=0)
    for ours, theirs in zip((features, weight), exact, strict=True):
        error = (ours.grad.cpu().double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < tolerance


@pytest.mark.gpu
def test_gpu_waits_for_nothing():
    features, weight, target = make(1000, 4000, 64, torch.bfloat16, "cuda")
    token_weight = make_token_weight(1000).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        chunked_cross_entropy(
            features,
            weight,
            target,
            token_weight,
            eps=0.1,
            padding_idx=PAD,
            chunk_mib=4,
            count_correct=True,
        ).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
