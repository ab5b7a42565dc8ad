"""Adapters compute what PEFT's compute on Hugging Face's GPT-2, and either side reads the other's.

Tolerance: 1e-4, absolute for logits of about 10 and relative to a gradient's largest entry.
"""

import json

import pytest
import torch
import torch.nn.functional as F

from fairtale.compat import read_checkpoint
from fairtale.compat.torchaudio import hide_torchaudio
from fairtale.errors import UserError
from fairtale.generation.session import Session
from fairtale.interop.adapter import Adapter, put_adapter
from fairtale.interop.peft_adapter import LAYERS, read_adapter, write_adapter
from fairtale.modules import lora_state
from fairtale.modules.lora import AdapterShape, add_adapters
from tests.gpt2_helpers import run_export, run_import, write_folder
from tests.helpers import random_rows, tiny_dictionary, tiny_model

hide_torchaudio()
transformers = pytest.importorskip("transformers", reason="needs the extra hf")
peft = pytest.importorskip("peft", reason="peft is not installed")

TOLERANCE = 1e-4
VOCAB, POSITIONS = 60, 24
SHAPE = {"embed_dim": 48, "num_layers": 3, "num_heads": 4, "ffn_dim": 96}
TOKENS = torch.stack(random_rows([20, 20, 20], VOCAB))
SUBSETS = [("qkv",), ("out", "fc2"), ("qkv", "out", "fc1", "fc2")]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
]


def bases():
    """Our model and Hugging Face's with the same random weights."""
    ours = tiny_model(tiny_dictionary(VOCAB - 4), POSITIONS, **SHAPE)
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=POSITIONS,
        n_embd=SHAPE["embed_dim"],
        n_layer=SHAPE["num_layers"],
        n_head=SHAPE["num_heads"],
        n_inner=SHAPE["ffn_dim"],
        bos_token_id=0,
        eos_token_id=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    body = theirs.transformer
    norms = {"self_attn_layer_norm": "ln_1", "final_layer_norm": "ln_2"}
    linears = {
        "self_attn.qkv_proj": "attn.c_attn",
        "self_attn.out_proj": "attn.c_proj",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
    }
    with torch.no_grad():
        body.wte.weight.copy_(ours.transformer.embed_tokens.weight)
        body.wpe.weight.copy_(ours.transformer.embed_positions.weight)
        body.ln_f.load_state_dict(ours.transformer.layer_norm.state_dict())
        for layer, block in zip(ours.transformer.layers, body.h, strict=True):
            for mine, other in norms.items():
                block.get_submodule(other).load_state_dict(layer.get_submodule(mine).state_dict())
            for mine, other in linears.items():
                block.get_submodule(other).weight.copy_(layer.get_submodule(mine).weight.t())
                block.get_submodule(other).bias.copy_(layer.get_submodule(mine).bias)
    return ours, theirs


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def filled(model, seed=0, scale=0.3):
    """Give random values to the second factors, which are zero at first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def by_peft(base, targets, rank=4, **options):
    names = [LAYERS[target] for target in targets]
    options = {"lora_alpha": 12, "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(1)  # peft draws the first factors; some draws round worse than the tolerance
    config = peft.LoraConfig(r=rank, target_modules=names, **options)
    return filled(peft.get_peft_model(base, config)).eval()


def our_adapter(model, shape):
    return Adapter("here", shape, lora_state.split_adapters(state_of(model)), None)


def assert_same_logits(found, expected, base):
    assert (expected - base).abs().max() > 1  # the adapters matter
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("targets", SUBSETS)
def test_peft_reads_ours(targets, tmp_path):
    ours, theirs = bases()
    plain = ours(TOKENS)[0]
    shape = AdapterShape(4, 12.0, 0.1, targets)
    add_adapters(ours.transformer, shape)
    filled(ours)
    write_adapter(str(tmp_path / "adapter"), our_adapter(ours, shape))
    wrapped = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()
    assert wrapped.peft_config["default"].lora_dropout == 0.1
    with torch.no_grad():
        assert_same_logits(wrapped(TOKENS).logits, ours.eval()(TOKENS)[0], plain)


@pytest.mark.parametrize("targets", SUBSETS)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "lora_alpha": 5}])
def test_we_read_pefts(targets, options, tmp_path):
    ours, theirs = bases()
    plain = ours(TOKENS)[0]
    wrapped = by_peft(theirs, targets, **options)
    wrapped.save_pretrained(tmp_path / "adapter")
    adapter = read_adapter(str(tmp_path / "adapter"))
    assert adapter.shape.targets == targets and adapter.shape.rank == 4 and adapter.base is None
    before = state_of(ours)
    put_adapter(ours.transformer, adapter)
    with torch.no_grad():
        expected = wrapped(TOKENS).logits
        unmerged = ours(TOKENS)[0]
        assert_same_logits(unmerged, expected, plain)
        merged = tiny_model(ours.dictionary, POSITIONS, seed=5, **SHAPE)
        state = lora_state.merge_adapters(before, adapter.weights, adapter.shape.scale)
        merged.load_state_dict(state, strict=True)
        difference = (merged(TOKENS)[0] - unmerged).abs().max()
        assert difference < 1e-5 * unmerged.abs().max()


def test_an_exported_adapter_on_an_exported_model(tmp_path):
    """As people do it: import, put adapters on, save them, export the base, and call peft."""
    folder = write_folder(tmp_path / "hf", n_embd=48, n_head=4, n_layer=3)
    run_import(folder, tmp_path / "base")
    path = tmp_path / "base" / "checkpoint.pt"
    base = read_checkpoint(str(path))["model"]
    run_export(path, tmp_path / "exported")
    shape = AdapterShape(4, 12.0, 0.1)
    plain = Session.load(str(path), str(tmp_path / "base"), cpu=True).model
    trained = Session.load(str(path), str(tmp_path / "base"), cpu=True).model
    add_adapters(trained.transformer, shape)
    weights = lora_state.split_adapters(state_of(filled(trained)))
    adapter = Adapter("here", shape, weights, lora_state.base_fingerprint(base))
    write_adapter(str(tmp_path / "adapter"), adapter, str(tmp_path / "exported"))
    changed = {"lora_adapter": str(tmp_path / "adapter")}
    ours = Session.load(str(path), str(tmp_path / "base"), cpu=True, overrides=changed).model
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
    tokens = torch.stack(random_rows([20, 20], 250))
    with torch.no_grad():
        expected = theirs(tokens).logits
        size = expected.size(-1)
        found = ours.eval()(tokens)[0][..., :size]
        assert_same_logits(found, expected, plain(tokens)[0][..., :size])


def test_there_and_back_is_bit_equal(tmp_path):
    _, theirs = bases()
    by_peft(theirs, SUBSETS[2]).save_pretrained(tmp_path / "a")
    first = read_adapter(str(tmp_path / "a"))
    write_adapter(str(tmp_path / "b"), first)
    second = read_adapter(str(tmp_path / "b"))
    assert second.shape == first.shape
    assert second.weights.keys() == first.weights.keys()
    for place, pair in first.weights.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, second.weights[place], strict=True))


def test_gradients_and_training(tmp_path):
    """Gradients of A and B equal PEFT's; after steps the base is bit-equal, and losses agree."""
    ours, theirs = bases()
    wrapped = by_peft(theirs, SUBSETS[2], lora_dropout=0.0)
    wrapped.save_pretrained(tmp_path / "adapter")
    base = state_of(ours)
    put_adapter(ours.transformer, read_adapter(str(tmp_path / "adapter")))
    trained = [p for p in ours.parameters() if p.requires_grad]
    rate = 1e-3
    optimizers = [
        torch.optim.Adam(trained, rate),
        torch.optim.Adam([p for p in wrapped.parameters() if p.requires_grad], rate),
    ]
    models = (lambda x: ours(x)[0]), (lambda x: wrapped(x).logits)
    ours.train(), wrapped.train()
    for step in range(5):
        losses = []
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            logits = model(TOKENS[:, :-1])
            losses.append(F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()))
            losses[-1].backward()
        torch.testing.assert_close(losses[0], losses[1], atol=0, rtol=1e-4)
        if step == 0:
            _assert_same_gradients(ours, wrapped)
        for optimizer in optimizers:
            optimizer.step()
    after = state_of(ours)
    assert all(torch.equal(after[key], value) for key, value in base.items())
    assert all(p.grad is None for p in ours.parameters() if not p.requires_grad)


def _assert_same_gradients(ours, wrapped):
    theirs = {name: p.grad for name, p in wrapped.named_parameters() if p.requires_grad}
    compared = 0
    for (layer, target), pair in lora_state.split_adapters(dict(ours.named_parameters())).items():
        for factor, mine in zip("AB", pair):
            name = f"transformer.h.{layer}.{LAYERS[target]}.lora_{factor}.default.weight"
            expected = theirs[f"base_model.model.{name}"]
            assert expected.abs().max() > 0
            difference = (mine.grad - expected).abs().max() / expected.abs().max()
            assert difference < TOLERANCE, name
            compared += 1
    assert compared == len(theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"rank_pattern": {"h.0.attn.c_attn": 2}}, "rank_pattern="),
        ({"alpha_pattern": {"c_attn": 2}}, "alpha_pattern="),
        ({"modules_to_save": ["wte"]}, "modules_to_save=['wte']"),
        ({"layers_to_transform": [0, 2]}, "layer 1 has no lora_A on attn.c_attn"),
    ],
)
def test_what_peft_makes_and_we_do_not_support_is_refused(options, message, tmp_path):
    _, theirs = bases()
    by_peft(theirs, ("qkv",), **options).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError) as error:
        read_adapter(str(tmp_path / "adapter"))
    assert message in str(error.value)


def test_adapters_on_the_embedding_are_refused(tmp_path):
    _, theirs = bases()
    config = peft.LoraConfig(r=4, target_modules=["wte"], task_type="CAUSAL_LM")
    filled(peft.get_peft_model(theirs, config)).save_pretrained(
        tmp_path / "adapter", save_embedding_layers=False
    )
    with pytest.raises(UserError, match="wte.*on no embedding and head"):
        read_adapter(str(tmp_path / "adapter"))
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"] == 4
