"""Importance of heads and units, compared with a direct computation."""

from argparse import Namespace

import pytest
import torch

from fairtale.pruning import importance, parts
from fairtale.pruning.checkpoint import new_model
from tests.helpers import randomize

V, PAD, EOS, H, F = 30, 1, 2, 2, 12
KEYS = ["encoder.0", "encoder.1", "decoder.0", "decoder.1", "cross.0", "cross.1"]


def tiny(arch="transformer", **options):
    shape = {"arch": arch}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_layers": 2, f"{side}_embed_dim": 16, f"{side}_ffn_embed_dim": F}
        shape[f"{side}_attention_heads"] = H
    return randomize(new_model(Namespace(**{**shape, **options}), V, V)).eval()


def sample(rows, seed=0):
    """A batch of sentences of different length, as fairseq's translation collates them."""
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.full((rows, 7), PAD), torch.full((rows, 6), PAD)
    previous = target.clone()
    for i in range(rows):
        words = torch.randint(4, V, (20,), generator=generator)
        source[i, i:6], source[i, 6] = words[: 6 - i], EOS
        n = 5 - i % 3
        target[i, :n], target[i, n] = words[10 : 10 + n], EOS
        previous[i, 0], previous[i, 1 : n + 1] = EOS, words[10 : 10 + n]
    net_input = {
        "src_tokens": source,
        "src_lengths": (source != PAD).sum(1),
        "prev_output_tokens": previous,
    }
    return {"id": torch.arange(rows), "net_input": net_input, "target": target}


def row(batch, i):
    net_input = {k: v[i : i + 1] for k, v in batch["net_input"].items()}
    return {
        "id": batch["id"][i : i + 1],
        "net_input": net_input,
        "target": batch["target"][i : i + 1],
    }


def loss(model, batch):
    lprobs = model.get_normalized_probs(model(**batch["net_input"]), log_probs=True)
    keep = batch["target"] != PAD
    return -lprobs.gather(2, batch["target"].unsqueeze(2)).squeeze(2)[keep].sum()


def by_weights(model, batch, weights):
    """Mean over sentences of |dL/dg|, where g scales columns of ``weights``: sum of dL/dW * W."""
    total = 0
    for i in range(len(batch["id"])):
        gradient = torch.autograd.grad(loss(model, row(batch, i)), weights)
        total = total + torch.stack([(g * w).sum(0).abs() for g, w in zip(gradient, weights)])
    return total / len(batch["id"])


def test_gradients_are_those_of_single_sentences():
    model, batch = tiny(), sample(4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = importance.measure(model, [sample(4)], PAD, EOS)
    assert found.num_sentences == 4
    assert list(found.gradient) == KEYS and list(found.units) == KEYS[:4]
    fc2 = [model.encoder.layers[1].fc2.weight, model.decoder.layers[0].fc2.weight]
    expected = by_weights(model, batch, fc2)
    torch.testing.assert_close(
        torch.stack([found.units["encoder.1"], found.units["decoder.0"]]),
        expected.double(),
        rtol=1e-3,
        atol=1e-5,
    )
    # a head's gate scales all columns of the head
    for key in KEYS:
        weight = parts.attentions(model)[key].out_proj.weight
        total = torch.zeros(H)
        for i in range(4):
            (gradient,) = torch.autograd.grad(loss(model, row(batch, i)), weight)
            total += (gradient * weight).sum(0).view(H, -1).sum(1).detach().abs()
        torch.testing.assert_close(found.gradient[key], total.double() / 4, rtol=1e-3, atol=1e-5)
    # the model is restored
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert type(model.encoder.layers[0].self_attn).__name__ == "MultiheadAttention"


def test_batches_do_not_matter():
    batch = sample(4)
    together = importance.measure(tiny(), [batch], PAD, EOS)
    apart = importance.measure(tiny(), [row(batch, i) for i in range(4)], PAD, EOS)
    for kind in ("confidence", "gradient", "units"):
        for key, value in getattr(together, kind).items():
            torch.testing.assert_close(value, getattr(apart, kind)[key], rtol=1e-4, atol=1e-6)


def test_confidence_is_the_mean_of_the_largest_weight_on_words():
    model, batch = tiny(), sample(3)
    found = importance.measure(model, [batch], PAD, EOS).confidence
    attention = model.encoder.layers[0].self_attn
    seen = {}
    hook = attention.register_forward_hook(
        lambda module, inputs, kwargs, output: seen.update(kwargs), with_kwargs=True
    )
    model(**batch["net_input"])
    hook.remove()
    x = seen["query"]
    q, k = (p(x).view(7, 3, H, 8).permute(1, 2, 0, 3) for p in (attention.q_proj, attention.k_proj))
    words = (batch["net_input"]["src_tokens"] != PAD) & (batch["net_input"]["src_tokens"] != EOS)
    scores = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(
        (batch["net_input"]["src_tokens"] == PAD)[:, None, None], -torch.inf
    )
    weights = scores.softmax(3).masked_fill(~words[:, None, None], 0.0)
    largest = weights.amax(3).transpose(0, 1)[:, words]  # [H, words]
    torch.testing.assert_close(found["encoder.0"], largest.mean(1).double(), rtol=1e-4, atol=1e-6)


def test_gates_of_the_model_take_part():
    model, batch = tiny("transformer_hcg", gated_attention="encoder"), [sample(3)]
    everything = importance.measure(model, batch, PAD, EOS)
    model.gates()["encoder.0"].fix(torch.tensor([True, False]))
    found = importance.measure(model, batch, PAD, EOS)
    assert found.gradient["encoder.0"][1] == 0 and found.gradient["encoder.0"][0] != 0
    assert not torch.equal(found.gradient["encoder.1"], everything.gradient["encoder.1"])


def test_a_model_pruned_before_can_be_measured():
    options = {"encoder_layer_heads": "0,1", "decoder_layer_ffn": "0,5", "gated_attention": ""}
    found = importance.measure(tiny("transformer_hcg", **options), [sample(2)], PAD, EOS)
    assert "encoder.0" not in found.gradient and len(found.gradient["encoder.1"]) == 1
    assert "decoder.0" not in found.units and len(found.units["decoder.1"]) == 5


def test_what_nobody_looks_at_counts_for_nothing():
    shape = {"cross_layer_heads": "0,0", "gated_attention": ""}
    found = importance.measure(tiny("transformer_hcg", **shape), [sample(2)], PAD, EOS)
    assert list(found.gradient) == KEYS[:4]
    for key in ("encoder.0", "encoder.1"):
        assert found.gradient[key].tolist() == [0] * H and found.units[key].tolist() == [0] * F
        assert found.gradient[key.replace("en", "de", 1)].min() > 0
    nothing = {"decoder_layer_heads": "0,0", "decoder_layer_ffn": "0,0"}
    found = importance.measure(tiny("transformer_hcg", **shape, **nothing), [sample(2)], PAD, EOS)
    assert found.gradient.keys() == {"encoder.0", "encoder.1"}


def test_the_model_is_put_together_again_after_an_error():
    model = tiny()
    with pytest.raises(KeyError):
        importance.measure(model, [{"net_input": {}}], PAD, EOS)
    assert type(model.decoder.layers[0].encoder_attn).__name__ == "MultiheadAttention"
    assert all(p.requires_grad for p in model.parameters())


def test_an_adaptive_softmax_can_be_measured():
    options = {"adaptive_softmax_cutoff": "8,16", "decoder_output_dim": 16}
    model, batch = tiny(**options), sample(3)
    with torch.no_grad():
        output = model(**batch["net_input"])
        lprobs = model.get_normalized_probs(output, log_probs=True, sample=batch)
        nll = -lprobs.gather(-1, batch["target"].unsqueeze(-1)).squeeze(-1)
        expected = nll.masked_fill(batch["target"] == PAD, 0.0).sum()
        found = importance._negative_log_likelihood(model, batch, PAD)
    assert torch.allclose(found, expected, rtol=1e-5)
    assert all(
        (x > 0).any() for x in importance.measure(model, [batch], PAD, EOS).gradient.values()
    )
