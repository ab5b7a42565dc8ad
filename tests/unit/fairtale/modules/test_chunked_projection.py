"""The chunked projection: its results, the sizes of its chunks, and skipped computations."""

import pytest
import torch
import torch.nn.functional as F

from fairtale.modules import chunked_projection
from fairtale.modules.chunked_loss import chunked_cross_entropy, smoothed_target_entropy


def make(num_tokens=37, num_symbols=23, channels=5):
    """Return features, weight and targets, the same in every call."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(num_tokens, channels, generator=generator)
    weight = torch.randn(num_symbols, channels, generator=generator)
    target = torch.randint(2, num_symbols, (num_tokens,), generator=generator)
    return features.requires_grad_(), weight.requires_grad_(), target


def test_entropy_is_that_of_the_distribution():
    q = torch.full((8,), 0.3 / 7, dtype=torch.float64)
    q[3] = 0.7
    expected = torch.distributions.Categorical(probs=q).entropy().item()
    assert smoothed_target_entropy(0.3, 8)[2] == pytest.approx(expected, rel=1e-12)
    assert smoothed_target_entropy(0.0, 8) == (1.0, 0.0, 0.0)


def test_logits_of_all_tokens_are_never_held(monkeypatch):
    """Every matrix product for logits has at most as many rows as a chunk."""
    rows = []
    product = chunked_projection._product

    def spy(a, b, out, *args, **kwargs):
        if out.size(1) == 2000:
            rows.append(out.size(0))
        return product(a, b, out, *args, **kwargs)

    monkeypatch.setattr(chunked_projection, "_product", spy)
    features, weight, target = make(1000, 2000, 16)
    chunked_cross_entropy(features, weight, target, chunk_mib=1).loss.backward()
    assert sum(rows) == 1000 and max(rows) == 128


def test_without_gradient_only_the_loss(monkeypatch):
    calls = []
    monkeypatch.setattr(
        chunked_projection,
        "_product",
        lambda a, b, out, *args, **kwargs: calls.append(1) or torch.mm(a, b, out=out),
    )
    features, weight, target = make()
    with torch.no_grad():
        sums = chunked_cross_entropy(features, weight, target)
    assert not sums.loss.requires_grad and len(calls) == 1
    expected = F.cross_entropy(features @ weight.t(), target, reduction="sum").detach()
    torch.testing.assert_close(sums.loss, expected)
