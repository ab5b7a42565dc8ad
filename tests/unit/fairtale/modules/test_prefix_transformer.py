"""Properties of the transformer: visible and hidden tokens, and initial weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtale.errors import UserError
from fairtale.modules.attention_masks import packing_index
from fairtale.modules.prefix_transformer import ACTIVATIONS, PrefixTransformer, TransformerShape
from tests.helpers import SHAPE, random_rows, randomize, tiny_transformer

BOTH_NORMS = pytest.mark.parametrize("normalize_before", [True, False])
PAD = 1


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def padded(rows, width=None):
    width = width or max(map(len, rows))
    return torch.stack([F.pad(r, (0, width - len(r)), value=PAD) for r in rows])


def packed(rows):
    """Return the arguments that read ``rows`` as one row without padding."""
    places = torch.cat([torch.arange(len(r)) for r in rows])[None]
    return {
        "tokens": torch.cat(rows)[None],
        "positions": places,
        "packed": packing_index([len(r) for r in rows]),
    }


# ------------------------------------------------------------------------------ parity


def reference(transformer, tokens, visible, normalize_before):
    """The same computation by torch's own encoder layers, with copied weights.

    ``visible`` [T, T] is True where a query (row) attends to a key.
    """
    x = transformer.embed_tokens.weight[tokens] + transformer.embed_positions.weight[: len(tokens)]
    for layer in transformer.layers:
        theirs = nn.TransformerEncoderLayer(
            SHAPE["embed_dim"],
            SHAPE["num_heads"],
            SHAPE["ffn_dim"],
            dropout=0.0,
            activation=lambda h: 0.5 * h * (1 + torch.tanh(0.7978845608 * (h + 0.044715 * h**3))),
            batch_first=True,
            norm_first=normalize_before,
        )
        attention, qkv = theirs.self_attn, layer.self_attn.qkv_proj
        copies = [
            (attention.in_proj_weight, qkv.weight),
            (attention.in_proj_bias, qkv.bias),
            (attention.out_proj.weight, layer.self_attn.out_proj.weight),
            (attention.out_proj.bias, layer.self_attn.out_proj.bias),
            (theirs.linear1.weight, layer.fc1.weight),
            (theirs.linear1.bias, layer.fc1.bias),
            (theirs.linear2.weight, layer.fc2.weight),
            (theirs.linear2.bias, layer.fc2.bias),
            (theirs.norm1.weight, layer.self_attn_layer_norm.weight),
            (theirs.norm1.bias, layer.self_attn_layer_norm.bias),
            (theirs.norm2.weight, layer.final_layer_norm.weight),
            (theirs.norm2.bias, layer.final_layer_norm.bias),
        ]
        with torch.no_grad():
            for target, source in copies:
                target.copy_(source)
        x = theirs(x[None], src_mask=~visible)[0]
    if normalize_before:
        norm = transformer.layer_norm
        x = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
    return x


@BOTH_NORMS
def test_equals_torch_encoder_layers(normalize_before):
    transformer = tiny_transformer(normalize_before=normalize_before)
    (tokens,) = random_rows([9])
    expected = reference(transformer, tokens, torch.ones(9, 9).tril().bool(), normalize_before)
    torch.testing.assert_close(transformer(tokens[None])[0], expected, atol=1e-5, rtol=1e-5)


@BOTH_NORMS
def test_bidirectional_prefix_sees_all_of_itself(normalize_before):
    transformer = tiny_transformer(bidirectional_prefix=True, normalize_before=normalize_before)
    rows = random_rows([6, 9, 1])
    lengths = torch.tensor([6, 9, 1])
    found = transformer.read_prefix(padded(rows), lengths).features
    for row, features in zip(rows, found):
        everything = torch.ones(len(row), len(row)).bool()
        expected = reference(transformer, row, everything, normalize_before)[-1]
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    causal = transformer.read_prefix(padded(rows), lengths, bidirectional=False).features
    torch.testing.assert_close(causal[0], transformer(rows[0][None])[0, -1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(causal[0], found[0], atol=1e-2)


def test_activations_are_what_their_names_say():
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    phi = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    expected = {
        "gelu_accurate": 0.5 * x * (1 + tanh),
        "gelu": x * phi,
        "relu": x * (x > 0),
        "swish": x / (1 + (-x).exp()),
        "tanh": (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
        "quick_gelu": x / (1 + (-1.702 * x).exp()),
    }
    assert ACTIVATIONS.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(ACTIVATIONS[name](x), values)


def test_segments_are_added():
    transformer = tiny_transformer(num_segments=3)
    (tokens,), segments = random_rows([6]), torch.tensor([[2, 2, 0, 1, 1, 1]])
    features = transformer(tokens[None], segments=segments)
    table = transformer.embed_segments.weight
    for i, kind in enumerate(segments[0].tolist()):  # the same through the position's embedding
        with torch.no_grad():
            transformer.embed_positions.weight[i] += table[kind]
    torch.testing.assert_close(features, transformer(tokens[None]), atol=1e-5, rtol=1e-5)


def test_output_is_tied():
    transformer = tiny_transformer()
    features = torch.randn(2, 3, 16)
    expected = torch.einsum("btc,vc->btv", features, transformer.embed_tokens.weight)
    torch.testing.assert_close(transformer.logits(features), expected)
    assert not any("output" in name for name, _ in transformer.named_parameters())


# -------------------------------------------------------------------------- properties


@BOTH_NORMS
def test_padding_and_batching_change_nothing(normalize_before):
    transformer = tiny_transformer(normalize_before=normalize_before)
    rows = random_rows([5, 12, 1, 8])
    together = transformer(padded(rows, width=15))
    for row, features in zip(rows, together):
        alone = transformer(row[None])[0]
        torch.testing.assert_close(features[: len(row)], alone, atol=2e-6, rtol=1e-5)


@BOTH_NORMS
def test_the_future_is_invisible(normalize_before):
    transformer = tiny_transformer(normalize_before=normalize_before)
    (tokens,) = random_rows([10])
    before = transformer(tokens[None])[0]
    for place in range(10):
        changed = tokens.clone()
        changed[place] = 4 + (tokens[place] - 3) % 20
        after = transformer(changed[None])[0]
        torch.testing.assert_close(after[:place], before[:place], atol=1e-6, rtol=1e-6)
        assert ((after[place:] - before[place:]).abs().amax(1) > 1e-3).all()


@BOTH_NORMS
@pytest.mark.parametrize("lengths", [[7], [4, 4], [3, 9, 1, 6]])
def test_packed_rows_equal_separate_rows(normalize_before, lengths):
    transformer = tiny_transformer(normalize_before=normalize_before)
    rows = random_rows(lengths)
    weights = [torch.randn(len(r), 16) for r in rows]
    apart = [transformer(r[None])[0] for r in rows]
    sum((y * w).sum() for y, w in zip(apart, weights)).backward()
    expected = {name: p.grad.clone() for name, p in transformer.named_parameters()}
    transformer.zero_grad()
    together = transformer(**packed(rows))[0]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)
    (together * torch.cat(weights)).sum().backward()
    for name, parameter in transformer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4, msg=name)


@BOTH_NORMS
@pytest.mark.parametrize("pack", [False, True])
def test_activation_checkpointing_has_the_same_gradients(normalize_before, pack):
    options = dict(dropout=0.2, attention_dropout=0.2, activation_dropout=0.2)
    rows = random_rows([3, 7, 5])
    inputs = packed(rows) if pack else {"tokens": padded(rows)}
    results, calls = [], []
    for checkpointed in (False, True):
        transformer = tiny_transformer(
            normalize_before=normalize_before, checkpoint_activations=checkpointed, **options
        ).train()
        count = []
        transformer.layers[0].fc1.register_forward_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(5)
        features = transformer(**inputs)
        features.sin().sum().backward()
        results.append([features] + [p.grad for p in transformer.parameters()])
        calls.append(len(count))
    assert calls == [1, 2]  # recomputed with the same random numbers
    for plain, again in zip(*results):
        assert torch.equal(plain, again)


def test_the_seed_decides():
    transformer = tiny_transformer(dropout=0.3, attention_dropout=0.3).train()
    (tokens,) = random_rows([8])
    found = []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        found.append(transformer(tokens[None]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    transformer.eval()
    assert torch.equal(transformer(tokens[None]), tiny_transformer()(tokens[None]))


def test_dropout_stands_where_gpt2_has_it():
    (tokens,) = random_rows([6])
    everything = tiny_transformer(dropout=1.0).train()
    # both the embeddings and the outputs of sub-layers are dropped
    expected = everything.layer_norm.bias.expand(1, 6, -1)
    torch.testing.assert_close(everything(tokens[None]), expected)

    inside = tiny_transformer(activation_dropout=1.0).train()
    without = tiny_transformer()
    with torch.no_grad():
        for layer in without.layers:
            layer.fc2.weight.zero_()
    torch.testing.assert_close(inside(tokens[None]), without(tokens[None]))


@BOTH_NORMS
@pytest.mark.parametrize("bidirectional", [False, True])
def test_reading_and_continuing_equals_the_forward_pass(normalize_before, bidirectional):
    """One step of T tokens after prefixes of several lengths; two beams a prefix."""
    transformer = tiny_transformer(
        normalize_before=normalize_before, bidirectional_prefix=bidirectional
    )
    lengths = torch.tensor([4, 1, 6])
    rows = random_rows(lengths)
    rest = torch.stack(random_rows([5] * 6, seed=1))
    prefix = transformer.read_prefix(padded(rows), lengths)
    past = [type(c)(*torch.full((2, 6, 2, 7, 8), torch.nan)) for c in prefix.caches]
    positions = lengths.repeat_interleave(2).unsqueeze(1) + torch.arange(5)
    with torch.no_grad():
        found = transformer.continue_prefix(rest, positions, None, prefix, past, 0)
    for r in range(6):
        n = len(rows[r // 2])
        visible = torch.ones(n + 5, n + 5).tril().bool()
        visible[:n, :n] |= bidirectional
        tokens = torch.cat([rows[r // 2], rest[r]])
        expected = reference(transformer, tokens, visible, normalize_before)[n:]
        torch.testing.assert_close(found[r], expected, atol=1e-5, rtol=1e-5)


def test_too_long_rows_are_refused_in_one_line():
    transformer = tiny_transformer(max_positions=8)
    transformer(torch.full((1, 8), 5))
    for read in (transformer, lambda x: transformer.read_prefix(x, torch.tensor([9]))):
        with pytest.raises(UserError) as error:
            read(torch.full((1, 9), 5))
        assert "9 tokens" in str(error.value) and "8 positions" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("pack", [False, True])
def test_layers_are_compiled_in_one_piece(pack):
    """With ``--compile``, no part of a layer falls back to Python, dropout included."""
    transformer = tiny_transformer(dropout=0.2, attention_dropout=0.2, activation_dropout=0.2)
    rows = random_rows([3, 7, 5])
    inputs = packed(rows) if pack else {"tokens": padded(rows)}
    expected = transformer(**inputs)
    for layer in transformer.layers:
        layer.compile(backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(transformer(**inputs), expected)
    first, second = (transformer.train()(**inputs) for _ in range(2))
    assert not torch.allclose(first, second)  # the masks are not constants of the compiled program


# --------------------------------------------------------------------------- beginning


def test_initial_weights_are_gpt2s():
    layers = 6
    shape = TransformerShape(embed_dim=128, num_layers=layers, num_heads=4, ffn_dim=512)
    transformer = PrefixTransformer(2000, PAD, 512, shape, num_segments=64)
    linear = {"qkv_proj": 0.02, "fc1": 0.02}
    linear |= dict.fromkeys(("out_proj", "fc2"), 0.02 / math.sqrt(2 * layers))
    for layer in transformer.layers:
        attention = layer.self_attn
        for module, name in (
            (attention.qkv_proj, "qkv_proj"),
            (attention.out_proj, "out_proj"),
            (layer.fc1, "fc1"),
            (layer.fc2, "fc2"),
        ):
            weight, std = module.weight, linear[name]
            assert abs(weight.std().item() / std - 1) < 0.03, name
            assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5
            assert (module.bias == 0).all()
        for norm in (layer.self_attn_layer_norm, layer.final_layer_norm):
            assert (norm.weight == 1).all() and (norm.bias == 0).all()
    for name in ("embed_tokens", "embed_positions", "embed_segments"):
        table = getattr(transformer, name).weight
        weight = torch.cat([table[:PAD], table[PAD + 1 :]])
        assert abs(weight.std().item() / 0.02 - 1) < 0.03
    assert (transformer.embed_tokens.weight[PAD] == 0).all()
    assert (transformer.embed_positions.weight[PAD] != 0).any()


def test_reset_parameters_draws_anew():
    transformer = tiny_transformer()
    torch.manual_seed(1)
    transformer.reset_parameters()
    first = [p.clone() for p in transformer.parameters()]
    torch.manual_seed(1)
    randomize(transformer).reset_parameters()
    weights = [(a, b) for a, b in zip(first, transformer.parameters()) if a.dim() > 1]
    assert weights and all(torch.equal(a, b) for a, b in weights)
