"""Gates on heads: bitwise equal to fairseq's attention if all are open, else scaled heads."""

import copy

import pytest
import torch
from fairseq.modules import MultiheadAttention

from fairtale.modules.gated_attention import GatedAttention, GatedNarrowAttention, scaled_heads
from fairtale.modules.hard_concrete import HardConcreteGate
from fairtale.modules.narrow_attention import NarrowAttention

C, H, B, T, S = 12, 3, 2, 5, 4
KINDS = {
    "self": {"self_attention": True},
    "cross": {"encoder_decoder_attention": True},
}


def _pair(**options):
    """Return fairseq's attention, and a gated one with the same weights."""
    torch.manual_seed(0)
    plain = MultiheadAttention(C, H, **options)
    for bias in (plain.q_proj.bias, plain.v_proj.bias, plain.out_proj.bias):
        torch.nn.init.normal_(bias)
    gated = GatedAttention(C, H, HardConcreteGate(H), **options)
    state = plain.state_dict()
    gated.upgrade_state_dict_named(state, "")
    gated.load_state_dict(state)
    return plain, gated


def _inputs(kind):
    query = torch.randn(T, B, C)
    key = query if kind == "self" else torch.randn(S, B, C)
    mask = torch.zeros(B, key.size(0), dtype=torch.bool)
    mask[1, -1] = True
    return query, key, mask


def _scaled(plain, gates):
    """Compute fairseq's attention with explicitly scaled outputs of the heads."""
    scaled = copy.deepcopy(plain)
    with torch.no_grad():
        scaled.out_proj.weight.view(C, H, C // H).mul_(gates.view(1, H, 1))
    return scaled


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_open_gates_change_nothing(kind, need_weights, training):
    plain, gated = _pair(**KINDS[kind])
    assert gated.gate.state == "untouched"
    query, key, mask = _inputs(kind)
    for module in (plain, gated):
        module.train(training)
    options = {"key_padding_mask": mask, "need_weights": need_weights}
    expected = plain(query, key, key, **options)
    found = gated(query, key, key, **options)
    assert torch.equal(found[0], expected[0])
    assert found[1] is expected[1] or torch.equal(found[1], expected[1])
    grads = []
    for module, y in ((plain, expected[0]), (gated, found[0])):
        y.square().sum().backward()
        grads.append({n: p.grad for n, p in module.named_parameters() if "gate" not in n})
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_scales_its_head_full_and_incremental(kind):
    plain, gated = _pair(**KINDS[kind])
    gates = torch.tensor([0.0, 1.0, 0.4])
    gated.eval()
    gated.gate.value = lambda: gates
    scaled = _scaled(plain, gates).eval()
    query, key, mask = _inputs(kind)
    options = {"key_padding_mask": mask} if kind == "cross" else {}
    expected = scaled(query, key, key, **options)[0]
    assert torch.allclose(gated(query, key, key, **options)[0], expected, atol=1e-6)
    states = ({}, {})
    for t in range(T):
        step = query[t : t + 1]
        keys = step if kind == "self" else key
        found, expected = (
            module(step, keys, keys, incremental_state=state, static_kv=kind == "cross", **options)[
                0
            ]
            for module, state in zip((gated, scaled), states)
        )
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_closed_head_leaves_no_trace():
    _, gated = _pair(self_attention=True)
    gated.gate.fix([True, False, True])
    query, key, mask = _inputs("self")
    before = gated(query, key, key)[0]
    with torch.no_grad():
        gated.v_proj.weight[4:8] += 7.0  # the second head's values
        gated.out_proj.weight[:, 4:8] -= 3.0
    assert torch.equal(gated(query, key, key)[0], before)


def test_gates_are_drawn_once_a_call_and_their_gradient_arrives():
    plain, gated = _pair(self_attention=True)
    gated.gate.learn()
    gated.gate.set_log_alpha(0.0)
    query, key, _ = _inputs("self")
    calls = []
    draw = type(gated.gate).forward
    gated.gate.forward = lambda: calls.append(1) or draw(gated.gate)
    torch.manual_seed(2)
    y = gated(query, key, key)[0]
    assert len(calls) == 1
    torch.manual_seed(2)
    drawn = draw(gated.gate).detach()
    assert torch.allclose(y, _scaled(plain, drawn)(query, key, key)[0], atol=1e-6)
    y.square().sum().backward()
    inner = (drawn > 0) & (drawn < 1)
    assert inner.any()
    assert (gated.gate.scaled_log_alpha.grad.ne(0) == inner).all()


def test_weights_are_seen_unscaled_from_outside():
    plain, gated = _pair(self_attention=True)
    gated.gate.fix([False, False, False])
    query, key, _ = _inputs("self")
    gated(query, key, key)
    assert torch.equal(gated.out_proj.weight, plain.out_proj.weight)
    state = {k for k in gated.state_dict() if not k.startswith("gate.")}
    assert state == set(plain.state_dict())


def test_a_scaled_projection_is_itself_again_afterwards():
    projection = torch.nn.Linear(6, 4)
    own, before = projection.weight, projection.weight.detach().clone()
    gates = torch.tensor([0.5, 0.0, 1.0], requires_grad=True)
    x = torch.randn(2, 6)
    with pytest.raises(KeyError), scaled_heads(projection, gates):
        expected = before * torch.tensor([0.5, 0.5, 0.0, 0.0, 1.0, 1.0])
        assert torch.equal(projection.weight, expected)
        assert projection.state_dict()["weight"].data_ptr() == own.data_ptr()
        assert list(projection.parameters())[0] is own
        projection(x).sum().backward()
        raise KeyError
    assert projection.weight is own and torch.equal(own, before)
    # both gradients are those of the product
    columns = x.sum(0).expand(4, 6)
    torch.testing.assert_close(own.grad, columns * expected.ne(0) * (expected / before))
    torch.testing.assert_close(gates.grad, (columns * before).view(4, 3, 2).sum((0, 2)))


def test_building_takes_the_same_random_numbers_as_fairseq():
    draws = []
    for build in (
        lambda: MultiheadAttention(C, H),
        lambda: GatedAttention(C, H, HardConcreteGate(H)),
    ):
        torch.manual_seed(9)
        build()
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


def test_a_pruned_attention_can_be_gated_again():
    torch.manual_seed(0)
    plain = NarrowAttention(C, 2, 4, self_attention=True).eval()
    gated = GatedNarrowAttention(C, 2, 4, HardConcreteGate(2), self_attention=True).eval()
    state = plain.state_dict()
    gated.upgrade_state_dict_named(state, "")
    gated.load_state_dict(state)
    query, key, _ = _inputs("self")
    expected = plain(query, key, key, need_weights=False)[0]
    assert torch.equal(gated(query, key, key, need_weights=False)[0], expected)
    gated.gate.fix([False, False])
    closed = gated(query, key, key, need_weights=False)[0]
    assert torch.equal(closed, plain.out_proj.bias.expand_as(closed))
