"""What a pruned checkpoint says of its model and of its training."""

from argparse import Namespace

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf

import user_dir
from fairtale.pruning import removal
from fairtale.pruning.checkpoint import (
    Checkpoint,
    build_model,
    flat_settings,
    new_model,
    pruned_checkpoint,
)
from tests.helpers import randomize

assert user_dir  # registers the architecture and the criterions
SIZE, HEADS, UNITS = 30, 4, 12


def model_of(arch, **options):
    shape = {"arch": arch, "_name": arch}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_layers": 2, f"{side}_embed_dim": 16}
        shape |= {f"{side}_ffn_embed_dim": UNITS, f"{side}_attention_heads": HEADS}
    settings = Namespace(**{**shape, **options})
    model = randomize(new_model(settings, SIZE, SIZE)).eval()
    return settings, model


def prune(settings, model, criterion, heads=None, units=None, dropped=None):
    """Return the content of the pruned file."""
    cfg = OmegaConf.create({"criterion": criterion}, flags={"allow_objects": True})
    state = {"model": model.state_dict(), "extra_state": {}, "optimizer_history": []}
    checkpoint = Checkpoint("a.pt", state, cfg, settings, model)
    counts = removal.head_counts(model)
    kept = {key: list(range(count)) for key, count in counts.items()} | (heads or {})
    plan = removal.Plan(kept, units or {}, dropped or {})
    weights = removal.prune_state(state["model"], plan, counts, removal.gate_values(model))
    return pruned_checkpoint(checkpoint, weights, plan, {})


def settings_of_criterion(name, **values):
    config = CRITERION_DATACLASS_REGISTRY[name]()
    return {**{key: getattr(config, key) for key in config.__dataclass_fields__}, **values}


def test_the_criterion_of_gates_does_not_outlive_them():
    """fairseq-validate would refuse the file: the model has no gates."""
    gated = settings_of_criterion("l0_gated", _name="l0_gated", label_smoothing=0.2)
    pruned = prune(*model_of("transformer_hcg", gated_attention="encoder"), gated)
    criterion = pruned["cfg"]["criterion"]
    assert criterion["_name"] == "label_smoothed_kl" and criterion["label_smoothing"] == 0.2
    assert criterion.keys() == settings_of_criterion("label_smoothed_kl").keys()
    other = {"_name": "cross_entropy", "sentence_avg": False}
    assert prune(*model_of("transformer"), other)["cfg"]["criterion"] == other


EVEN = {f"{side}.{number}": [0, 3, 5] for side in ("encoder", "decoder") for number in (0, 1)}


@pytest.mark.parametrize(
    "arch, options, change, plain",
    [
        ("transformer", {}, {"units": EVEN}, True),
        ("transformer", {}, {"dropped": {"encoder": [1], "decoder": [0]}}, True),
        ("transformer_hcg", {"gated_attention": "encoder,cross"}, {}, True),  # all gates are open
        ("transformer", {}, {"units": {**EVEN, "encoder.1": [1]}}, False),
        ("transformer", {}, {"heads": {"cross.0": [0, 1, 3]}}, False),
        ("transformer", {}, {"heads": {f"encoder.{n}": [0, 1] for n in (0, 1)}}, False),
    ],
)
def test_a_model_whose_layers_have_equal_shapes_stays_a_transformer(arch, options, change, plain):
    settings, model = model_of(arch, **options)
    pruned = prune(settings, model, {"_name": "cross_entropy"}, **change)
    found = pruned["cfg"]["model"]
    assert found._name == found.arch == ("transformer" if plain else "transformer_hcg")
    assert any(name.endswith("_layer_heads") for name in vars(found)) != plain
    smaller = build_model(found, pruned["model"])
    assert (type(smaller) is TransformerModel) == plain
    if not change:  # the same function
        tokens = torch.tensor([[5, 6, 7, 2]])
        inputs = (tokens, torch.tensor([4]), torch.tensor([[2, 8, 9]]))
        torch.testing.assert_close(smaller(*inputs)[0], model(*inputs)[0], rtol=0, atol=1e-5)
    # as if read from a file
    assert flat_settings(found) == found
