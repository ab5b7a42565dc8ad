"""Adapters and their bases: checkpoints, models, and what does not belong together."""

from argparse import Namespace

import pytest
import torch

from fairtale.errors import UserError
from fairtale.interop import adapter as adapters
from fairtale.interop.adapter import Adapter, check_fit, put_adapter
from fairtale.modules import lora, lora_state
from fairtale.modules.lora import AdapterShape, add_adapters
from tests.helpers import tiny_model

SHAPE = AdapterShape(2, 4.0, 0.0, ("qkv", "fc2"))
OPTIONS = {"lora_rank": 2, "lora_alpha": 4.0, "lora_dropout": None, "lora_target": "qkv,fc2"}
TOKENS = torch.tensor([[5, 9, 7, 12]])


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def trained(**options):
    """A model with adapters as after training, and the state dict of its base."""
    model = tiny_model(**options)
    base = state_of(model)
    add_adapters(model.transformer, SHAPE)
    state = dict(base)
    lora_state.complete_state_dict(model.transformer, state)
    model.load_state_dict(state)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(lora.B):
                parameter.normal_(std=0.3)
    return model, base


def checkpoint_of(model, **changed):
    options = {"decoder_layers": 2, **OPTIONS, **changed}
    return {"cfg": {"model": options, "task": {"_name": "story_lm"}}, "model": state_of(model)}


def test_from_a_checkpoint_and_onto_a_model():
    model, base = trained()
    adapter = adapters.adapter_of_checkpoint("x.pt", checkpoint_of(model))
    assert adapter.shape == SHAPE and adapter.base == lora_state.base_fingerprint(base)
    check_fit(adapter, base, "base.pt")
    found = tiny_model(seed=9)
    put_adapter(found.transformer, adapter)
    found.load_state_dict(dict(base))  # as fairseq does after the model is built
    assert torch.equal(found(TOKENS)[0], model(TOKENS)[0])


def test_the_base_is_checked_when_it_is_loaded():
    model, _ = trained()
    adapter = adapters.adapter_of_checkpoint("x.pt", checkpoint_of(model))
    found = tiny_model(seed=9)
    put_adapter(found.transformer, adapter)
    with pytest.raises(UserError, match="made for the base with fingerprint"):
        found.load_state_dict(state_of(tiny_model(seed=9)))


def test_a_merged_checkpoint_is_plain():
    model, base = trained()
    state = checkpoint_of(model)
    before = {key: value.clone() for key, value in state["model"].items()}
    adapter = adapters.adapter_of_checkpoint("x.pt", state)
    for settings in (dict, lambda **options: Namespace(**options)):
        given = {**state, "cfg": {**state["cfg"], "model": settings(**state["cfg"]["model"])}}
        given |= {"last_optimizer_state": {"big": 1}, "extra_state": {"x": 1}}
        merged = adapters.merged_checkpoint(given, adapter)
        options = merged["cfg"]["model"]
        options = options if isinstance(options, dict) else vars(options)
        assert options["decoder_layers"] == 2 and options["lora_rank"] == 0
        assert [options[f"lora_{name}"] for name in ("alpha", "dropout", "target")] == [None] * 3
        assert lora.adapter_shape(*(options[name] for name in OPTIONS)) is None
        assert merged["last_optimizer_state"] is None and merged["extra_state"] == {"x": 1}
    assert state["cfg"]["model"]["lora_rank"] == 2
    assert all(torch.equal(state["model"][key], value) for key, value in before.items())
    assert merged["model"].keys() == base.keys()
    plain = tiny_model(seed=9)
    plain.load_state_dict(merged["model"])
    torch.testing.assert_close(plain(TOKENS)[0], model(TOKENS)[0], atol=2e-5, rtol=0)


def test_old_checkpoints_hold_args():
    model, base = trained()
    adapter = adapters.adapter_of_checkpoint("x.pt", checkpoint_of(model))
    merged = adapters.merged_checkpoint({"args": Namespace(x=1, **OPTIONS), "model": base}, adapter)
    assert merged["args"].x == 1 and merged["args"].lora_rank == 0
    merged = adapters.merged_checkpoint({"args": Namespace(x=1), "model": base}, adapter)
    assert vars(merged["args"]) == {"x": 1}


def test_a_checkpoint_without_adapters():
    state = {"cfg": {"model": {"decoder_layers": 2}}, "model": state_of(tiny_model())}
    with pytest.raises(UserError, match="x.pt: has no adapters"):
        adapters.adapter_of_checkpoint("x.pt", state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 3}, "made for 2 layers, but base.pt has 3"),
        ({"embed_dim": 32}, "qkv of layer 0 leads from 16 to 48 units, but in base.pt from 32 to"),
        ({"ffn_dim": 64}, "fc2 of layer 0 leads from 32 to 16 units, but in base.pt from 64 to 16"),
        ({"seed": 5}, "adapter x.pt: made for the base with fingerprint"),
    ],
)
def test_another_base_is_refused(options, message):
    adapter = adapters.adapter_of_checkpoint("x.pt", checkpoint_of(trained()[0]))
    other = tiny_model(**options)
    with pytest.raises(UserError, match=message):
        check_fit(adapter, state_of(other), "base.pt")
    if "seed" not in options:
        with pytest.raises(UserError, match=message.replace("base.pt", "the model")):
            put_adapter(other.transformer, adapter)


def test_a_base_with_adapters_is_refused():
    model, _ = trained()
    adapter = adapters.adapter_of_checkpoint("x.pt", checkpoint_of(model))
    with pytest.raises(UserError, match="base.pt: has adapters of its own"):
        check_fit(adapter, state_of(model), "base.pt")


def test_without_a_fingerprint_the_sizes_are_checked():
    model, _ = trained()
    known = adapters.adapter_of_checkpoint("x.pt", checkpoint_of(model))
    adapter = Adapter("peft", known.shape, known.weights, None)
    check_fit(adapter, state_of(tiny_model(seed=5)), "base.pt")
    with pytest.raises(UserError, match="made for 2 layers"):
        check_fit(adapter, state_of(tiny_model(num_layers=1)), "base.pt")
