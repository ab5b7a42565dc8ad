"""``transformer_hcg`` with open gates is fairseq's ``transformer`` to the last bit."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from tests.gate_helpers import ALL, gated_model, plain_model, translation_batch

VARIANTS = {
    "post-norm": {},
    "pre-norm": {"encoder_normalize_before": True, "decoder_normalize_before": True},
    "shared embeddings": {"share_all_embeddings": True},
    "layernorm of embeddings": {"layernorm_embedding": True, "encoder_learned_pos": True},
    "recomputed activations": {"checkpoint_activations": True},
    "narrow encoder": {"encoder_embed_dim": 8, "decoder_embed_dim": 16, "decoder_input_dim": 16,
                       "decoder_output_dim": 16},
}  # fmt: skip


def _outputs(model, batch, training):
    model.train(training)
    model.zero_grad()
    x, extra = model(**batch["net_input"])
    x.square().mean().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if ".gate." not in n}
    return x, extra, grads


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [True, False])
def test_logits_and_gradients(variant, training):
    plain = plain_model(**VARIANTS[variant])
    gated = gated_model(seed=7, like=plain, gated_attention=ALL, **VARIANTS[variant])
    assert {gate.state for gate in gated.gates().values()} == {"untouched"}
    batch = translation_batch()
    expected, _, expected_grads = _outputs(plain, batch, training)
    found, _, grads = _outputs(gated, batch, training)
    assert torch.equal(found, expected)
    assert grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        assert torch.equal(grads[name], grad), name


@pytest.mark.parametrize("training", [True, False])
def test_gates_that_are_all_fixed_open(training):
    plain = plain_model()
    gated = gated_model(like=plain, gated_attention=ALL)
    for gate in gated.gates().values():
        gate.set_log_alpha(-9.0)
        gate.fix([True] * 4)
    batch = translation_batch()
    assert torch.equal(_outputs(gated, batch, training)[0], _outputs(plain, batch, training)[0])


def test_new_gates_are_open_in_evaluation():
    plain = plain_model()
    gated = gated_model(like=plain, gated_attention=ALL)
    for gate in gated.gates().values():
        gate.learn()
    batch = translation_batch()
    assert torch.equal(_outputs(gated, batch, False)[0], _outputs(plain, batch, False)[0])
    assert not torch.equal(_outputs(gated, batch, True)[0], _outputs(plain, batch, True)[0])


@pytest.mark.parametrize("beam", [1, 3])
def test_beam_search(beam):
    plain = plain_model()
    gated = gated_model(like=plain, gated_attention=ALL)
    batch = translation_batch()
    hypotheses = []
    for model in (plain, gated):
        model.eval()
        generator = SequenceGenerator([model], model.decoder.dictionary, beam, max_len_b=9)
        hypotheses.append(generator.generate([model], batch))
    for rows in zip(*hypotheses):
        for expected, found in zip(*rows):
            assert torch.equal(found["tokens"], expected["tokens"])
            assert torch.equal(found["positional_scores"], expected["positional_scores"])


def test_with_gates_closed_incremental_decoding_equals_the_full_pass():
    model = gated_model(like=plain_model(), gated_attention=ALL).eval()
    for i, gate in enumerate(model.gates().values()):
        gate.fix([h != i % 4 for h in range(4)])
    net_input = translation_batch(((6, 5), (3, 5)))["net_input"]
    prev = net_input["prev_output_tokens"]
    with torch.no_grad():
        full = model(**net_input)[0]
        encoder_out = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
        state, steps = {}, []
        for t in range(1, prev.size(1) + 1):
            steps.append(model.decoder(prev[:, :t], encoder_out, incremental_state=state)[0])
    assert torch.allclose(torch.cat(steps, 1), full, atol=1e-5)


def test_the_same_seed_gives_the_same_weights():
    plain, gated = plain_model(seed=3), gated_model(seed=3, gated_attention=ALL)
    names = [n for n, _ in plain.named_parameters()]
    assert names == [n for n, _ in gated.named_parameters() if ".gate." not in n]
    own = dict(gated.named_parameters())
    assert all(torch.equal(p, own[n]) for n, p in plain.named_parameters())
