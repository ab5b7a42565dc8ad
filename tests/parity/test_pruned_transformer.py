"""A pruned transformer computes what the gated one does, whole and step by step.

Within 1e-5: a gate is multiplied into the weights, and products are summed in another order.
"""

from argparse import Namespace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from fairtale.pruning import parts, removal, selection
from fairtale.pruning.checkpoint import build_model, new_model
from tests.helpers import randomize

V, H, F, LAYERS, PAD, EOS = 30, 4, 12, 3, 1, 2
TOLERANCE = {"rtol": 0, "atol": 1e-5}
ALL = "encoder,decoder,cross"


def settings_of(**options):
    shape = {"arch": "transformer_hcg", "_name": "transformer_hcg", "gated_attention": ALL}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_layers": LAYERS, f"{side}_embed_dim": 32}
        shape |= {f"{side}_ffn_embed_dim": F, f"{side}_attention_heads": H}
    return Namespace(**{**shape, **options})


def gated_model(settings):
    """Random weights; every kind of layer: heads all open, some half open, some or all closed."""
    model = randomize(new_model(settings, V, V), scale=0.25).eval()
    generator = torch.Generator().manual_seed(3)
    for number, gate in enumerate(model.gates().values()):
        # from -2.4 to 2.4 a gate is between 0 and 1
        log_alpha = torch.rand(H, generator=generator) * 6 - 3
        log_alpha = torch.full((H,), 9.0) if number % 3 == 1 else log_alpha
        gate.set_log_alpha(torch.full((H,), -9.0) if number % 3 == 2 else log_alpha)
    return model


def prune(model, settings, kept=None, units=None, dropped=None):
    counts, gates = removal.head_counts(model), removal.gate_values(model)
    heads = {key: list(range(count)) for key, count in counts.items()}
    heads |= selection.keep_above(gates, 1e-30) if kept is None else kept
    plan = removal.Plan(heads, units or {}, dropped or {})
    weights = removal.prune_state(model.state_dict(), plan, counts, gates)
    widths = {**removal.unit_counts(model), **{k: len(v) for k, v in plan.units.items()}}
    return build_model(removal.pruned_settings(settings, plan, widths), weights)


def sentences():
    """Source padded at the left, target at the right, as fairseq's translation does."""
    generator = torch.Generator().manual_seed(5)
    source = torch.randint(4, V, (3, 19), generator=generator)
    previous = torch.randint(4, V, (3, 18), generator=generator)
    source[:, -1], previous[:, 0] = EOS, EOS
    source[1, :6], previous[2, 12:] = PAD, PAD
    return source, previous


def full(model):
    source, previous = sentences()
    lengths = (source != PAD).sum(1)
    logits, extra = model(source, lengths, previous)
    encoder_out = model.encoder(source, lengths)["encoder_out"][0]
    # what is computed at padding is nobody's business
    return encoder_out.transpose(0, 1)[source != PAD], logits[previous != PAD], extra["attn"][0]


def incremental(model):
    source, previous = sentences()
    encoder_out, state = model.encoder(source, (source != PAD).sum(1)), {}
    steps = range(1, 13)
    outs = [model.decoder(previous[:, :t], encoder_out, state)[0] for t in steps]
    return torch.cat(outs, 1)


def search(model):
    source, _ = sentences()
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=3, max_len_b=12)
    sample = {"net_input": {"src_tokens": source, "src_lengths": (source != PAD).sum(1)}}
    return [
        (best["tokens"].tolist(), best["score"].item())
        for hypotheses in generator.generate([model], sample)
        for best in hypotheses
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder_normalize_before": True, "decoder_normalize_before": True},
        {"share_all_embeddings": True, "gated_attention": "encoder"},
        {"share_decoder_input_output_embed": True, "gated_attention": "decoder"},
        {"gated_attention": "cross", "encoder_learned_pos": True, "layernorm_embedding": True},
        {"adaptive_softmax_cutoff": "10,20"},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
@torch.no_grad()
def test_closed_heads_are_not_missed(options):
    settings = settings_of(**options)
    model = gated_model(settings)
    gates = torch.cat(list(removal.gate_values(model).values()))
    assert ((gates > 0) & (gates < 1)).any() and (gates == 0).any() and (gates == 1).any()
    pruned = prune(model, settings)
    counts = removal.head_counts(pruned)
    assert 0 in counts.values() and sum(counts.values()) < 3 * LAYERS * H
    assert not pruned.gates()
    for found, expected in zip(full(pruned), full(model), strict=True):
        if expected is not None and found is not None:
            torch.testing.assert_close(found, expected, **TOLERANCE)
    if "adaptive_softmax_cutoff" in options:
        return  # its logits are hidden; the features were compared
    torch.testing.assert_close(incremental(pruned), incremental(model), **TOLERANCE)
    for found, expected in zip(search(pruned), search(model), strict=True):
        assert found[0] == expected[0]
        assert found[1] == pytest.approx(expected[1], abs=1e-5)


@torch.no_grad()
def test_of_a_last_layer_without_heads_there_is_no_alignment():
    settings = settings_of()
    model = gated_model(settings)
    pruned = prune(model, settings, kept={f"cross.{LAYERS - 1}": []})
    assert full(pruned)[2] is None
    assert len(search(pruned)) == 9


@torch.no_grad()
def test_heads_that_were_open_count():
    """The comparison above is no empty one: without a head that is open it fails."""
    settings = settings_of(gated_attention="")
    model = randomize(new_model(settings, V, V), scale=0.25).eval()
    for key in ("encoder.0", "decoder.1", "cross.2"):
        pruned = prune(model, settings, kept={key: [0, 1, 3]})
        assert (full(pruned)[1] - full(model)[1]).abs().max() > 1e-3
        # ... and it is that head which is gone
        weight = parts.attentions(model)[key].out_proj.weight
        before = weight.clone()
        weight[:, 16:24] = 0
        torch.testing.assert_close(full(pruned)[1], full(model)[1], **TOLERANCE)
        weight.copy_(before)


@torch.no_grad()
def test_units_and_layers():
    settings = settings_of(gated_attention="")
    model = randomize(new_model(settings, V, V), scale=0.25).eval()
    units = {"encoder.2": [0, 5, 11], "decoder.0": [7]}
    dropped = {"encoder": [1], "decoder": [2]}
    pruned = prune(model, settings, units=units, dropped=dropped)
    assert removal.unit_counts(pruned) == {
        "encoder.0": F, "encoder.1": 3, "decoder.0": 1, "decoder.1": F,
    }  # fmt: skip
    del model.encoder.layers[1], model.decoder.layers[2]
    model.decoder.num_layers = 2
    model.encoder.layers[1].fc2.weight[:, [i for i in range(F) if i not in (0, 5, 11)]] = 0
    model.decoder.layers[0].fc2.weight[:, [i for i in range(F) if i != 7]] = 0
    for found, expected in zip(full(pruned), full(model), strict=True):
        torch.testing.assert_close(found, expected, **TOLERANCE)
    torch.testing.assert_close(incremental(pruned), incremental(model), **TOLERANCE)


@torch.no_grad()
def test_heads_are_ordered_as_training_would_fix_them():
    """Gates that are fixed are not judged by the log-alpha that they had."""
    model = gated_model(settings_of(gated_attention="encoder,cross"))
    for key, gate in model.gates().items():
        gate.set_log_alpha(torch.tensor([-9.0, -8.0, 9.0, 8.0]))
        if key.startswith("encoder"):
            gate.fix([True, True, False, False])
    _, order = removal.gate_scores(model)
    places = {}
    for count in (5, 6, 9, 12, 18, 20):
        kept = selection.keep_best(order, count)
        places[count] = [len(kept[key]) for key in order]
    assert places[5] == [2, 2, 1, 0, 0, 0] and places[6] == [2, 2, 2, 0, 0, 0]
    assert places[9] == [2, 2, 2, 1, 1, 1] and places[12] == [2, 2, 2, 2, 2, 2]
    assert places[18] == [2, 2, 2, 4, 4, 4] and places[20][3:] == [4, 4, 4]
    # within a layer that is fixed, by log-alpha
    assert selection.keep_best(order, 1)["encoder.0"] == [1]


@torch.no_grad()
def test_nothing_of_the_gates_is_left():
    settings = settings_of()
    model = gated_model(settings)
    counts = removal.head_counts(model)
    plan = removal.Plan({key: list(range(count)) for key, count in counts.items()})
    assert [name for name in model.state_dict() if "gate" in name]
    left = removal.prune_state(model.state_dict(), plan, counts, removal.gate_values(model))
    assert not [name for name in left if "gate" in name]


@torch.no_grad()
def test_a_pruned_model_is_pruned_again():
    settings = settings_of(gated_attention="")
    model = randomize(new_model(settings, V, V), scale=0.25).eval()
    once = prune(model, settings, kept={"encoder.0": [0, 1, 3], "cross.1": []})
    counts = removal.head_counts(once)
    plan = removal.Plan({**{k: list(range(n)) for k, n in counts.items()}, "encoder.0": [0, 2]})
    weights = removal.prune_state(once.state_dict(), plan, counts, {})
    smaller = removal.pruned_settings(settings, plan, removal.unit_counts(once))
    twice = build_model(smaller, weights)
    directly = prune(model, settings, kept={"encoder.0": [0, 3], "cross.1": []})
    for name, value in directly.state_dict().items():
        assert torch.equal(twice.state_dict()[name], value), name
