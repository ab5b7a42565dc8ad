"""``gpt`` computes what Hugging Face's GPT-2 computes, forward and backward, in fp32.

Tolerance: 1e-4, absolute for logits of about 10 and relative to a gradient's largest entry.
Both sum in fp32 in different orders; the differences seen are a tenth of that.
"""

import pytest
import torch
import torch.nn.functional as F

from fairtale.compat.torchaudio import hide_torchaudio
from tests.helpers import random_rows, tiny_model

hide_torchaudio()
transformers = pytest.importorskip("transformers", reason="needs the extra hf")

TOLERANCE = 1e-4
PAD = 1
SHAPES = [
    # embed_dim, num_layers, num_heads, ffn_dim, vocab_size, positions
    (16, 1, 1, 64, 24, 16),
    (48, 3, 4, 192, 101, 40),
    (64, 2, 8, 96, 257, 33),
]


def weight_pairs(ours, theirs):
    """Yield (name, our parameter, theirs in our orientation).

    GPT-2's Conv1D keeps its weights as [in, out].
    """
    body = theirs.transformer
    yield "tokens", ours.embed_tokens.weight, body.wte.weight
    yield "positions", ours.embed_positions.weight, body.wpe.weight
    for i, (layer, block) in enumerate(zip(ours.layers, body.h, strict=True)):
        for name, mine, conv in (
            ("qkv", layer.self_attn.qkv_proj, block.attn.c_attn),
            ("out", layer.self_attn.out_proj, block.attn.c_proj),
            ("fc1", layer.fc1, block.mlp.c_fc),
            ("fc2", layer.fc2, block.mlp.c_proj),
        ):
            yield f"{i}.{name}.weight", mine.weight, conv.weight.t()
            yield f"{i}.{name}.bias", mine.bias, conv.bias
        for name, mine, norm in (
            ("norm1", layer.self_attn_layer_norm, block.ln_1),
            ("norm2", layer.final_layer_norm, block.ln_2),
        ):
            yield f"{i}.{name}.weight", mine.weight, norm.weight
            yield f"{i}.{name}.bias", mine.bias, norm.bias
    yield "norm.weight", ours.layer_norm.weight, body.ln_f.weight
    yield "norm.bias", ours.layer_norm.bias, body.ln_f.bias


def pair(shape, seed=0):
    """Return our model and Hugging Face's with the same random weights."""
    embed_dim, num_layers, num_heads, ffn_dim, vocab_size, positions = shape
    from tests.helpers import tiny_dictionary

    ours = tiny_model(
        tiny_dictionary(vocab_size - 4),
        positions,
        seed,
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        ffn_dim=ffn_dim,
    )
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=positions,
        n_embd=embed_dim,
        n_layer=num_layers,
        n_head=num_heads,
        n_inner=ffn_dim,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    copied = 0
    with torch.no_grad():
        for _, mine, other in weight_pairs(ours.transformer, theirs):
            other.copy_(mine)
            copied += mine.numel()
    assert copied == sum(p.numel() for p in ours.parameters())
    assert copied == sum(p.numel() for p in theirs.parameters())  # the tied output counts once
    return ours, theirs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [[1], [16, 16], [3, 15, 8, 1]])
def test_logits(shape, lengths):
    ours, theirs = pair(shape)
    rows = random_rows(lengths, shape[4])
    tokens = torch.stack([F.pad(r, (0, max(lengths) - len(r)), value=PAD) for r in rows])
    real = tokens != PAD
    with torch.no_grad():
        found = ours(tokens)[0]
        expected = theirs(tokens, attention_mask=real.long()).logits
    assert expected[real].std() > 1  # worth comparing
    torch.testing.assert_close(found[real], expected[real], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape):
    ours, theirs = pair(shape)
    lengths = [9, 16, 4]
    rows = random_rows(lengths, shape[4])
    tokens = torch.stack([F.pad(r, (0, 16 - len(r)), value=PAD) for r in rows])
    target = F.pad(tokens[:, 1:], (0, 1), value=PAD)
    real = target != PAD
    losses = []
    for logits in (ours(tokens)[0], theirs(tokens, attention_mask=(tokens != PAD).long()).logits):
        losses.append(F.cross_entropy(logits[real], target[real], reduction="sum"))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    theirs_grad = {
        id(p): p.grad for p in theirs.parameters()
    }  # weight_pairs gives views of parameters, gradients are not on them
    compared = 0
    for name, mine, other in weight_pairs(ours.transformer, theirs):
        owner = other if id(other) in theirs_grad else other._base
        expected = theirs_grad[id(owner)]
        expected = expected if other is owner else expected.t()
        assert expected.abs().max() > 0, name
        difference = (mine.grad - expected).abs().max() / expected.abs().max()
        assert difference < TOLERANCE, name
        compared += mine.numel()
    assert compared == sum(p.numel() for p in ours.parameters())


def test_generation_is_greedy_search():
    """Our beam search with one beam writes what ``generate`` writes."""
    from tests.helpers import generate, tiny_task

    ours, theirs = pair(SHAPES[1])
    task = tiny_task(ours.dictionary, 40)
    prompts = [r.tolist() for r in random_rows([6, 2, 11], 101)]
    found = generate(task, [ours], prompts, max_len_b=12)
    for prompt, hypos in zip(prompts, found):
        tokens = torch.tensor([[0, *prompt]])
        expected = theirs.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=12,
            min_new_tokens=1,
            eos_token_id=2,
            pad_token_id=PAD,
            suppress_tokens=[PAD],
        )[0, tokens.size(1) :]
        tokens = hypos[0]["tokens"].tolist()
        assert tokens[:-1] == [t for t in expected.tolist() if t != 2] and tokens[-1] == 2
