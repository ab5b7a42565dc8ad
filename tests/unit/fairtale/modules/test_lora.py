"""Low-rank adapters: what they compute, what they train, and which checkpoints they accept."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtale.errors import UserError
from fairtale.modules import lora, lora_state
from fairtale.modules.lora import AdapterShape, LowRankLinear, add_adapters
from tests.helpers import tiny_transformer

ALL = ("qkv", "out", "fc1", "fc2")
TOKENS = torch.tensor([[5, 9, 7, 12], [6, 4, 20, 11]])


def linear_with_adapter(rank=3, alpha=6.0, dropout=0.0):
    torch.manual_seed(3)
    base = nn.Linear(8, 12)
    return LowRankLinear(base, AdapterShape(rank, alpha, dropout))


def adapted(rank=3, alpha=6.0, targets=ALL, dropout=0.0, filled=True, **options):
    """A transformer with adapters; ``filled`` ones differ from zero."""
    transformer = tiny_transformer(**options)
    torch.manual_seed(1)
    add_adapters(transformer, AdapterShape(rank, alpha, dropout, targets))
    if filled:
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if name.endswith(lora.B):
                    parameter.normal_(std=0.1)
    return transformer


def state_of(transformer):
    return {f"transformer.{k}": v.clone() for k, v in transformer.state_dict().items()}


# ------------------------------------------------------------------------------ one layer


def test_the_layer_adds_the_scaled_product():
    layer = linear_with_adapter()
    layer.lora_B.data.normal_()
    x = torch.randn(2, 5, 8)
    expected = F.linear(x, layer.weight, layer.bias) + 2.0 * (
        x @ layer.lora_A.t() @ layer.lora_B.t()
    )
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


def test_the_output_is_at_first_that_of_the_base():
    layer = linear_with_adapter()
    x = torch.randn(4, 8)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert layer.lora_A.abs().max() > 0
    assert layer.lora_A.abs().max() <= 8**-0.5  # the bound of kaiming_uniform with a = sqrt(5)


def test_gradients_reach_the_adapter_and_the_input_only():
    layer = linear_with_adapter().double()
    layer.lora_B.data.normal_()
    assert torch.autograd.gradcheck(
        layer, torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    )
    a, b = layer.lora_A.detach(), layer.lora_B.detach()

    def by_hand(a, b, x):
        return x @ layer.weight.t() + layer.bias + 2.0 * (x @ a.t() @ b.t())

    x = torch.randn(3, 8, dtype=torch.float64)
    layer(x).square().sum().backward()
    a.requires_grad_(), b.requires_grad_()
    by_hand(a, b, x).square().sum().backward()
    torch.testing.assert_close(layer.lora_A.grad, a.grad)
    torch.testing.assert_close(layer.lora_B.grad, b.grad)
    assert layer.weight.grad is None and layer.bias.grad is None


def test_dropout_acts_on_the_adapter_in_training_only():
    layer = linear_with_adapter(dropout=0.5)
    layer.lora_B.data.normal_()
    x = torch.randn(64, 8)
    base = F.linear(x, layer.weight, layer.bias)
    layer.eval()
    full = layer(x) - base
    layer.train()
    torch.manual_seed(0)
    dropped = torch.stack([layer(x) - base for _ in range(400)])
    assert not torch.allclose(dropped[0], full)
    error = (dropped.mean(0) - full).abs().mean() / full.abs().mean()
    assert error < 0.1  # dropout keeps the mean


def test_autocast():
    layer = linear_with_adapter()
    layer.lora_B.data.normal_()
    x = torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.1, rtol=0.05)


# ------------------------------------------------------------------------- a transformer


def test_the_base_keeps_its_names_and_tensors():
    transformer = tiny_transformer()
    before = dict(transformer.named_parameters())
    add_adapters(transformer, AdapterShape(2, 4.0))
    after = dict(transformer.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    new = set(after) - set(before)
    assert len(new) == 2 * 4 * 2 and all(lora_state.is_adapter_key(name) for name in new)
    assert all(parameter.requires_grad == (name in new) for name, parameter in after.items())


@pytest.mark.parametrize("targets", [("qkv",), ("fc2", "qkv"), ALL])
def test_targets(targets):
    found = lora_state.split_adapters(state_of(adapted(targets=targets)))
    assert set(found) == {(layer, target) for layer in range(2) for target in targets}
    widths = {"qkv": (16, 48), "out": (16, 16), "fc1": (16, 32), "fc2": (32, 16)}
    for (_, target), (a, b) in found.items():
        assert (a.size(1), b.size(0)) == widths[target]


def test_merged_and_unmerged_agree():
    transformer = adapted()
    merged = tiny_transformer(seed=7)
    state = lora_state.merge_adapters(
        state_of(transformer), lora_state.split_adapters(state_of(transformer)), scale=2.0
    )
    merged.load_state_dict({k.removeprefix("transformer."): v for k, v in state.items()})
    plain = tiny_transformer()(TOKENS)
    found, expected = merged(TOKENS), transformer(TOKENS)
    assert (expected - plain).abs().max() > 0.1  # the adapters matter
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_reading_prefixes_uses_the_adapters():
    transformer = adapted()
    lengths = torch.tensor([4, 4])
    features = transformer.read_prefix(TOKENS, lengths).features
    torch.testing.assert_close(features, transformer(TOKENS)[:, -1], atol=1e-5, rtol=0)


def test_no_backward_pass_below_the_lowest_adapter():
    """The embeddings and the base's weights of the first layer cost no gradient."""
    transformer = adapted(targets=("fc2",))
    seen = []
    first = transformer.layers[0]
    first.self_attn.register_forward_hook(lambda m, x, y: seen.append(y.requires_grad))
    transformer(TOKENS).sum().backward()
    assert seen == [False]
    grads = {n for n, p in transformer.named_parameters() if p.grad is not None}
    assert grads == {n for n, _ in transformer.named_parameters() if lora_state.is_adapter_key(n)}


def test_recomputed_activations_give_the_same_gradients():
    grads = []
    for again in (False, True):
        transformer = adapted(dropout=0.3, checkpoint_activations=again).train()
        torch.manual_seed(5)
        transformer(TOKENS).square().sum().backward()
        grads.append([p.grad for p in transformer.parameters() if p.requires_grad])
    assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))


# ----------------------------------------------------------------------------- checkpoints


def test_a_base_gets_the_models_adapters_and_its_own_fingerprint():
    base = state_of(tiny_transformer())
    transformer = adapted()
    state = dict(base)
    lora_state.complete_state_dict(transformer, state)
    added = {key: state[key] for key in state if key not in base}
    assert all(lora_state.is_adapter_key(key) for key in added)
    assert lora_state.recorded_base(state) == lora_state.base_fingerprint(base)
    own = state_of(transformer)
    assert all(torch.equal(v, own[k]) for k, v in added.items() if not k.endswith(lora.BASE))


def test_nothing_but_adapters_is_added_to_a_base():
    transformer = adapted()
    state = state_of(tiny_transformer())
    del state["transformer.layers.1.fc1.bias"]
    lora_state.complete_state_dict(transformer, state)
    assert "transformer.layers.1.fc1.bias" not in state


def test_a_checkpoint_with_the_same_adapters_is_unchanged():
    state = state_of(adapted())
    before = dict(state)
    lora_state.complete_state_dict(adapted(filled=False), state)
    assert state.keys() == before.keys()
    assert all(state[key] is value for key, value in before.items())


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (lambda: adapted(rank=2), ["of rank 3 on qkv,out,fc1,fc2", "of rank 2 on"]),
        (lambda: adapted(targets=("qkv",)), ["on qkv of 2 layers", "fairtale gpt2 merge"]),
        (lambda: adapted(num_layers=3), ["of 2 layers", "of 3 layers"]),
        (tiny_transformer, ["the model has no adapters"]),
    ],
)
def test_other_adapters_are_refused(model, parts):
    with pytest.raises(UserError) as error:
        lora_state.complete_state_dict(model(), state_of(adapted()))
    assert all(part in str(error.value) for part in parts), error.value


def test_adapters_of_another_base_are_refused():
    transformer = adapted()
    state = state_of(tiny_transformer())
    lora_state.complete_state_dict(transformer, state)
    transformer.load_state_dict({k.removeprefix("transformer."): v for k, v in state.items()})
    lora_state.complete_state_dict(transformer, state_of(tiny_transformer()))
    with pytest.raises(UserError, match="made for the base with fingerprint"):
        lora_state.complete_state_dict(transformer, state_of(tiny_transformer(seed=9)))


def test_fingerprint_compares_values_and_not_types():
    state = {"b": torch.randn(3, 4).bfloat16(), "a": torch.tensor([1.0])}
    wide = {"a": torch.tensor([1.0]), "b": state["b"].float()}
    assert lora_state.base_fingerprint(state) == lora_state.base_fingerprint(wide)
    for changed in (
        {**wide, "c": torch.tensor([])},
        {**wide, "b": wide["b"].t()},
        {**wide, "a": torch.tensor([1.0000001])},
    ):
        assert lora_state.base_fingerprint(changed) != lora_state.base_fingerprint(wide)
    adapters = {"x.lora_A": torch.ones(2), "x.lora_B": torch.ones(2)}
    assert lora_state.base_fingerprint({**wide, **adapters}) == lora_state.base_fingerprint(wide)


# --------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": -1}, "--lora-rank -1: must be at least 1"),
        ({"alpha": 0.0}, "--lora-alpha 0.0: must be > 0"),
        ({"alpha": float("inf")}, "--lora-alpha inf: must be > 0"),
        ({"dropout": 1.0}, "--lora-dropout 1.0: must be"),
        ({"dropout": -0.1}, "--lora-dropout -0.1: must be"),
        ({"targets": ("qkv", "mlp")}, "no target 'mlp'; choose from qkv, out, fc1, fc2"),
        ({"targets": ("embed_tokens",)}, "embed_tokens takes no adapter"),
        ({"targets": ("qkv", "qkv")}, "at most once"),
        ({"targets": ()}, "at most once"),
    ],
)
def test_bad_shapes_are_refused(values, message):
    with pytest.raises(UserError) as error:
        AdapterShape(**{"rank": 2, "alpha": 4.0, **values})
    assert message in str(error.value)


def test_a_rank_above_the_width_is_refused():
    add_adapters(tiny_transformer(), AdapterShape(16, 1.0))
    with pytest.raises(UserError, match="--lora-rank 17: must be at most 16, the width of qkv"):
        add_adapters(tiny_transformer(), AdapterShape(17, 1.0))


def test_order_of_targets_is_settled():
    assert AdapterShape(1, 1.0, targets=("fc2", "qkv")).targets == ("qkv", "fc2")


def test_options():
    assert lora.adapter_shape(0, None, None, None) is None
    assert lora.adapter_shape(4, None, None, None) == AdapterShape(4, 4.0, 0.0, ALL)
    assert lora.adapter_shape(4, 8, 0.1, "fc1,qkv") == AdapterShape(4, 8.0, 0.1, ("qkv", "fc1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 16.0, None, None), "--lora-alpha 16.0 needs --lora-rank"),
        ((0, None, 0.0, None), "--lora-dropout 0.0 needs --lora-rank"),
        ((None, None, None, "qkv"), "--lora-target qkv needs --lora-rank"),
        ((4, None, None, ""), "--lora-target : no target ''"),
        ((4, None, None, "qkv, fc1"), "no target ' fc1'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError) as error:
        lora.adapter_shape(*options)
    assert message in str(error.value)
