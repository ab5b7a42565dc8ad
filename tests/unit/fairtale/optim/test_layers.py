"""Every model names all of its parameters once, from bottom to top."""

from argparse import Namespace

import pytest
import torch
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from torch import nn

from fairtale.errors import UserError
from fairtale.interfaces import NamesLayers
from fairtale.optim.layers import layers_of
from tests.gate_helpers import ALL, gated_model, plain_model
from tests.helpers import tiny_dictionary, tiny_model


def names_by_group(model):
    """Return the names of each group's parameters."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {name: [names[id(p)] for p in parameters] for name, parameters in layers_of(model)}


def test_gpt():
    model = tiny_model(num_segments=3)
    assert isinstance(model, NamesLayers)
    groups = names_by_group(model)
    assert list(groups) == ["embeddings", "layer_0", "layer_1", "top"]
    assert groups["embeddings"] == [
        f"transformer.embed_{name}.weight" for name in ("tokens", "positions", "segments")
    ]
    assert groups["top"] == ["transformer.layer_norm.weight", "transformer.layer_norm.bias"]
    for number in (0, 1):
        assert len(groups[f"layer_{number}"]) == len(
            list(model.transformer.layers[number].parameters())
        )


def test_an_untied_output_projection_belongs_to_the_top():
    top = names_by_group(tiny_model(untied_output=True))["top"]
    assert "transformer.output_projection.weight" in top and len(top) == 3


def test_gpt_without_a_final_norm_has_an_empty_top():
    model = tiny_model(normalize_before=False)
    assert names_by_group(model)["top"] == []


@pytest.mark.parametrize("tied", [True, False])
def test_transformer(tied):
    model = plain_model(
        encoder_normalize_before=True,
        decoder_normalize_before=True,
        share_decoder_input_output_embed=tied,
    )
    groups = names_by_group(model)
    sides = [f"{side}_{n}" for side in ("encoder", "decoder") for n in (0, 1)]
    assert list(groups) == ["embeddings", *sides, "top"]
    for side in sides:
        prefix = side.replace("_", ".layers.")
        own = [name for name in groups[side] if not name.startswith(prefix)]
        norm = ["encoder.layer_norm.weight", "encoder.layer_norm.bias"]
        assert own == (norm if side == "encoder_1" else [])
    head = "decoder.output_projection.weight"
    assert (head in groups["top"]) != tied
    assert "decoder.layer_norm.weight" in groups["top"]


def test_gates_belong_to_their_layers():
    model = gated_model(gated_attention=ALL)
    groups = names_by_group(model)
    gates = {name for name, _ in model.named_parameters() if "gate" in name}
    assert len(gates) == 6
    for name in gates:
        side, _, number = name.split(".")[:3]
        assert name in groups[f"{side}_{number}"]


def test_transformer_lm():
    cfg = TransformerLanguageModelConfig(
        decoder_embed_dim=8, decoder_output_dim=8, decoder_input_dim=8, decoder_ffn_embed_dim=8,
        decoder_layers=3, decoder_attention_heads=2, share_decoder_input_output_embed=True,
        tokens_per_sample=8, max_target_positions=8,
    )  # fmt: skip
    dictionary = tiny_dictionary()
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = TransformerLanguageModel.build_model(cfg, task)
    assert list(names_by_group(model)) == ["embeddings", *(f"layer_{n}" for n in range(3)), "top"]


def test_other_models_are_refused():
    with pytest.raises(UserError, match="Linear does not name its layers"):
        layers_of(nn.Linear(2, 2))


def test_a_forgotten_parameter_is_refused():
    model = tiny_model()
    model.extra = nn.Parameter(torch.zeros(3))
    with pytest.raises(UserError, match="extra"):
        layers_of(model)


def test_a_repeated_parameter_is_refused(monkeypatch):
    model = tiny_model()
    groups = model.layer_groups()
    monkeypatch.setattr(type(model), "layer_groups", lambda self: [*groups, groups[0]])
    with pytest.raises(UserError, match="repeats some"):
        layers_of(model)
