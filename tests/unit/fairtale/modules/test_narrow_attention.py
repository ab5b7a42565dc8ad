"""NarrowAttention, compared with fairseq's MultiheadAttention with the same weights."""

import pytest
import torch
from fairseq.modules import MultiheadAttention

from fairtale.errors import UserError
from fairtale.modules.narrow_attention import BiasOnly, NarrowAttention
from tests.helpers import randomize

C, H, D, S, T = 32, 4, 8, 20, 20  # T is large enough for the fused kernel


def pair(**options):
    """Return fairseq's attention and a narrow one, with the same random weights."""
    theirs = randomize(MultiheadAttention(C, H, **options)).eval()
    ours = NarrowAttention(C, H, D, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(rows=6, length=T, seed=0, channels=C):
    return torch.randn(length, rows, channels, generator=torch.Generator().manual_seed(seed))


def padding(rows=6, length=S):
    mask = torch.zeros(rows, length, dtype=torch.bool)
    mask[rows // 2 :, -3:] = True
    return mask


def causal(length=T):
    return torch.triu(torch.full((length, length), -torch.inf), 1)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention(need_weights, masked):
    theirs, ours = pair(self_attention=True)
    x = inputs()
    options = {"need_weights": need_weights}
    if masked:
        options |= {"key_padding_mask": padding(), "attn_mask": causal()}
    expected, expected_weights = theirs(x, x, x, **options)
    found, weights = ours(x, x, x, **options)
    torch.testing.assert_close(found, expected)
    if need_weights:
        torch.testing.assert_close(weights, expected_weights)
    else:
        assert weights is None


def test_a_mask_of_booleans_is_one_of_minus_infinity():
    _, ours = pair(self_attention=True)
    x = inputs()
    expected, _ = ours(x, x, x, attn_mask=causal())
    found, _ = ours(x, x, x, attn_mask=causal().isinf())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("head_weights", [False, True])
def test_attention_to_an_encoder_of_another_width(head_weights):
    theirs, ours = pair(encoder_decoder_attention=True, kdim=24, vdim=24)
    x, y = inputs(), inputs(length=S, seed=1, channels=24)
    options = {
        "key_padding_mask": padding(),
        "static_kv": True,
        "need_weights": True,
        "need_head_weights": head_weights,
    }
    expected, expected_weights = theirs(x, y, y, **options)
    found, weights = ours(x, y, y, **options)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_scores_before_softmax():
    theirs, ours = pair(encoder_decoder_attention=True)
    x, y = inputs(), inputs(length=S, seed=1)
    options = {"static_kv": True, "before_softmax": True, "key_padding_mask": padding()}
    expected = theirs(x, y, y, **options)
    found = ours(x, y, y, **options)
    # rows are ordered by (row, head), as in fairseq
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def steps(attention, encoder, mask, orders):
    """Decode step by step; between steps, reorder rows as a beam search does."""
    state, outs, rows = {}, [], encoder.size(1)
    for number, order in enumerate(orders):
        x = inputs(rows, 1, seed=number)
        y, pad = (
            (encoder[:, :rows], mask[:rows]) if attention.encoder_decoder_attention else (x, None)
        )
        static = attention.encoder_decoder_attention
        out, weights = attention(
            x, y, y, key_padding_mask=pad, incremental_state=state, static_kv=static
        )
        outs += [out, weights]
        order = torch.tensor(order)
        attention.reorder_incremental_state(state, order)
        rows = len(order)
    return outs


BEAMS = [
    [0, 1, 2, 3, 4, 5],
    [1, 0, 0, 5, 5, 3],  # within their sentences
    [3, 4, 4],  # the first sentence has ended
    [2, 2, 0],
    [1, 2],  # fewer than the beams
    [0, 1],
]
MIXED = [[0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("cross, orders", [(False, BEAMS), (True, BEAMS), (False, MIXED)])
def test_incremental(cross, orders):
    theirs, ours = pair(self_attention=not cross, encoder_decoder_attention=cross)
    ours.set_beam_size(3)
    encoder = inputs(2, S, seed=9).repeat_interleave(3, 1)  # three beams each
    mask = padding(2).repeat_interleave(3, 0)
    expected = steps(theirs, encoder, mask, orders)
    found = steps(ours, encoder, mask, orders)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_rows_that_change_their_sentence():
    """Unlike in fairseq, an equal number of rows is not assumed to mean equal sentences."""
    theirs, ours = pair(encoder_decoder_attention=True)
    ours.set_beam_size(3)
    encoder, state = inputs(2, S, seed=9).repeat_interleave(3, 1), {}
    x, order = inputs(6, 1), torch.tensor([5, 0, 3, 1, 1, 2])
    ours(x, encoder, encoder, incremental_state=state, static_kv=True)
    ours.reorder_incremental_state(state, order)
    found, _ = ours(x, encoder, encoder, incremental_state=state, static_kv=True)
    moved = encoder[:, order]
    expected, _ = theirs(x, moved, moved, static_kv=True)
    torch.testing.assert_close(found, expected)


def test_incremental_equals_full():
    _, ours = pair(self_attention=True)
    x, state = inputs(), {}
    expected, _ = ours(x, x, x, attn_mask=causal())
    found = [ours(x[t : t + 1], None, None, incremental_state=state)[0] for t in range(T)]
    torch.testing.assert_close(torch.cat(found), expected)


def test_padding_among_the_steps():
    theirs, ours = pair(self_attention=True)
    states = {}, {}
    for number, padded in enumerate([None, 2, None, 4]):
        x = inputs(6, 1, seed=number)
        pad = None if padded is None else torch.arange(6).unsqueeze(1) == padded
        found, expected = (
            m(x, x, x, key_padding_mask=pad, incremental_state=state)[0]
            for m, state in zip((ours, theirs), states, strict=True)
        )
        torch.testing.assert_close(found, expected)


def test_beams_share_the_keys_of_their_sentence():
    _, ours = pair(encoder_decoder_attention=True)
    ours.set_beam_size(3)
    encoder, state = inputs(2, S).repeat_interleave(3, 1), {}
    ours(inputs(6, 1), encoder, encoder, incremental_state=state, static_kv=True)
    (buffer,) = state.values()
    assert buffer["prev_key"].shape == (2, H, S, D)
    before = buffer["prev_key"]
    ours.reorder_incremental_state(state, torch.tensor([1, 1, 0, 3, 5, 5]))
    assert buffer["prev_key"] is before  # beams changed places: nothing is copied
    ours.reorder_incremental_state(state, torch.tensor([3, 3, 4]))
    assert buffer["prev_key"].shape == (1, H, S, D)


def test_beams_of_another_number_than_was_said_are_not_shared():
    """A generator works even after another one with another beam size was built."""
    theirs, ours = pair(encoder_decoder_attention=True)
    encoder, x = inputs(2, S, seed=9).repeat_interleave(3, 1), inputs(6, 1)
    expected, _ = theirs(x, encoder, encoder, static_kv=True)
    for number, rows in ((1, 6), (2, 6), (3, 2), (4, 6), (6, 6)):
        ours.set_beam_size(number)
        state = {}
        found, _ = ours(x, encoder, encoder, incremental_state=state, static_kv=True)
        torch.testing.assert_close(found, expected)
        (buffer,) = state.values()
        assert buffer["prev_key"].size(0) == rows


@pytest.mark.parametrize("cross", [False, True])
def test_without_heads_the_bias_is_left(cross):
    attention = NarrowAttention(C, 0, D, self_attention=not cross, encoder_decoder_attention=cross)
    assert set(attention.state_dict()) == {"out_proj.bias"}
    torch.nn.init.normal_(attention.out_proj.bias)
    x, state = inputs(), {}
    found, weights = attention(x, x, x, incremental_state=state, need_head_weights=True)
    assert weights is None
    assert torch.equal(found, attention.out_proj.bias.expand(T, 6, C))
    attention.reorder_incremental_state(state, torch.tensor([0]))


def test_an_alignment_cannot_be_printed_without_heads():
    attention = NarrowAttention(C, 0, D, encoder_decoder_attention=True)
    x = inputs()
    attention.make_generation_fast_(name="decoder.layers.1.encoder_attn", need_attn=None)
    assert attention(x, x, x, incremental_state={}, need_head_weights=True)[1] is None
    attention.make_generation_fast_(name="decoder.layers.1.encoder_attn", need_attn="hard")
    # other layers do not define the alignment
    assert attention(x, x, x, incremental_state={})[1] is None
    with pytest.raises(UserError, match="--print-alignment: .* has no heads left; leave the opt"):
        attention(x, x, x, incremental_state={}, need_head_weights=True)


def test_no_heads_learn():
    layer = BiasOnly(3)
    layer(torch.zeros(2, 5, 0)).sum().backward()
    assert layer.bias.grad.tolist() == [10, 10, 10]


def test_dropout_is_of_training_unless_it_is_kept():
    attention = NarrowAttention(C, H, D, self_attention=True, dropout=0.5)
    x = inputs()

    def varies():
        return not torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])

    assert varies()
    attention.eval()
    assert not varies()
    attention.make_generation_fast_(retain_dropout=True, retain_dropout_modules=["Other"])
    assert not varies()
    attention.make_generation_fast_(retain_dropout=True)
    assert varies()
