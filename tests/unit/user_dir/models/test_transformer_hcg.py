"""``transformer_hcg``: named parts, shapes of pruned models, freezing, checkpoints, bad options."""

import copy
from argparse import SUPPRESS, ArgumentParser, Namespace

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from torch.utils._python_dispatch import TorchDispatchMode

from fairtale.errors import UserError
from fairtale.interfaces import HasGates
from fairtale.modules.narrow_attention import BiasOnly, NarrowAttention
from tests.gate_helpers import ALL, gated_model, plain_model, translation_batch, translation_task
from user_dir.models.transformer_hcg import TransformerHCGModel


def test_parts_have_names():
    model = gated_model(gated_attention="encoder,cross")
    names = [f"{kind}.{i}" for kind in ("encoder", "decoder", "cross") for i in range(2)]
    assert list(model.attentions()) == names
    assert list(model.gates()) == ["encoder.0", "encoder.1", "cross.0", "cross.1"]
    assert model.attentions()["cross.1"] is model.decoder.layers[1].encoder_attn
    assert model.gates()["encoder.1"] is model.encoder.layers[1].self_attn.gate
    assert model.ffns()["decoder.0"][1] is model.decoder.layers[0].fc2
    assert not gated_model(gated_attention="").gates()
    assert isinstance(model, HasGates)
    assert list(gated_model().gates()) == ["encoder.0", "encoder.1"]  # the default


def test_gate_settings_reach_the_gates():
    gate = gated_model(
        gate_temperature=0.5, gate_low=-0.2, gate_high=1.3, gate_init_log_alpha=1.5,
        gate_lr_scale=8.0,
    ).gates()["encoder.0"]  # fmt: skip
    assert (gate.temperature, gate.low, gate.high, gate.lr_scale) == (0.5, -0.2, 1.3, 8.0)
    assert torch.equal(gate.log_alpha, torch.full((4,), 1.5))


def test_shapes_of_pruned_models():
    model = gated_model(
        gated_attention="cross",
        encoder_layer_heads="3,0",
        cross_layer_heads="1,4",
        encoder_layer_ffn="0,5",
        decoder_layer_ffn="24,7",
    )
    heads = {k: a.num_heads for k, a in model.attentions().items()}
    assert heads == {"encoder.0": 3, "encoder.1": 0, "decoder.0": 4, "decoder.1": 4,
                     "cross.0": 1, "cross.1": 4}  # fmt: skip
    assert isinstance(model.attentions()["encoder.0"], NarrowAttention)
    assert model.attentions()["encoder.0"].head_dim == 4
    fc1, fc2 = model.ffns()["encoder.0"]
    assert isinstance(fc2, BiasOnly) and not list(fc1.parameters())
    assert [model.ffns()[k][0].out_features for k in ("encoder.1", "decoder.0", "decoder.1")] == [
        5, 24, 7,
    ]  # fmt: skip
    assert [g.num_heads for g in model.gates().values()] == [1, 4]
    model.train()(**translation_batch()["net_input"])[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_layers_of_a_pruned_model_do_what_is_left_of_them():
    """A layer without heads and units adds its biases."""
    model = gated_model(
        gated_attention="", encoder_layer_heads="0,0", encoder_layer_ffn="0,0",
        encoder_normalize_before=True,
    ).eval()  # fmt: skip
    layer = model.encoder.layers[0]
    torch.nn.init.normal_(layer.self_attn.out_proj.bias)
    torch.nn.init.normal_(layer.fc2.bias)
    x = torch.randn(5, 2, 16)
    expected = x + layer.self_attn.out_proj.bias + layer.fc2.bias
    assert torch.allclose(layer(x, None), expected, atol=1e-6)


def test_a_generator_sets_the_beams_of_pruned_attentions_only():
    model = gated_model(gated_attention=ALL, cross_layer_heads="2,0").eval()
    SequenceGenerator([model], model.decoder.dictionary, beam_size=3)
    beams = {key: attention.beam_size for key, attention in model.attentions().items()}
    expected = {key: 3 if key.startswith("cross") else 1 for key in beams}
    assert beams == expected


def test_a_copy_computes_the_same():
    model = gated_model(gated_attention=ALL, encoder_layer_heads="2,0").eval()
    net_input = translation_batch()["net_input"]
    assert torch.equal(model(**net_input)[0], copy.deepcopy(model)(**net_input)[0])


@pytest.mark.parametrize("part", ["encoder", "decoder", "encoder,decoder"])
def test_a_frozen_part_has_no_gradient_and_no_dropout(part):
    model = gated_model(gated_attention=ALL, freeze=part, dropout=0.5).train()
    for name, parameter in model.named_parameters():
        frozen = name.split(".")[0] in part and ".gate." not in name
        assert parameter.requires_grad == (not frozen), name
    for name in ("encoder", "decoder"):
        side = getattr(model, name)
        assert side.training == (name not in part)
        assert all(m.training == side.training for m in side.modules() if "Dropout" in str(type(m)))
    assert all(gate.training for gate in model.gates().values())
    model.eval()
    assert not any(m.training for m in model.modules())


def test_a_frozen_decoder_computes_no_attention_weights_in_training():
    model = gated_model(freeze="decoder")
    shown = [
        layer.need_attn for mode in (True, False) for layer in model.train(mode).decoder.layers
    ]
    assert shown == [False, False, True, True]
    model.make_generation_fast_(need_attn=False)
    model.eval()
    assert not any(layer.need_attn for layer in model.decoder.layers)


class Products(TorchDispatchMode):
    """Writes down which products were computed."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_frozen_projection_is_not_copied_for_each_row():
    model = gated_model(freeze="decoder").eval()
    sample = translation_batch()["net_input"]
    for tokens in (sample["prev_output_tokens"], sample["prev_output_tokens"][:, :1]):
        features, _ = model(**{**sample, "prev_output_tokens": tokens}, features_only=True)
        with Products() as products:
            model.decoder.output_layer(features)
        assert "mm" in products.names and "bmm" not in products.names


def test_an_embedding_that_both_sides_share_is_frozen_with_one():
    model = gated_model(freeze="decoder", share_all_embeddings=True)
    assert not model.encoder.embed_tokens.weight.requires_grad
    assert model.encoder.layers[0].fc1.weight.requires_grad


def test_a_checkpoint_of_a_plain_transformer_gets_open_gates_only_where_it_has_none():
    gated = gated_model(gated_attention="encoder", like=plain_model())
    gated.gates()["encoder.0"].learn()
    gated.gates()["encoder.0"].set_log_alpha(-1.0)
    more = gated_model(seed=4, gated_attention=ALL)
    more.load_state_dict(gated.state_dict())
    states = {key: gate.state for key, gate in more.gates().items()}
    assert states.pop("encoder.0") == "learned"
    assert set(states.values()) == {"untouched"}
    assert torch.equal(more.gates()["encoder.0"].log_alpha, gated.gates()["encoder.0"].log_alpha)


def test_gates_are_not_dropped_in_silence():
    state = gated_model(gated_attention="encoder,cross").state_dict()
    with pytest.raises(UserError, match="gates .*encoder_attn.gate.* add them to --gated"):
        gated_model(gated_attention="encoder").load_state_dict(dict(state))
    with pytest.raises(UserError, match=r"--gated-attention \(none\).*fairtale prune"):
        gated_model(gated_attention="").load_state_dict(dict(state))


def test_a_checkpoint_of_other_heads_is_refused():
    state = gated_model(encoder_attention_heads=2).state_dict()
    with pytest.raises(UserError, match="has 2 gates at .*, but the model has 4 heads"):
        gated_model().load_state_dict(state)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gated_attention": "encoder,middle"}, "--gated-attention encoder,middle: middle is none"),
        ({"freeze": "embeddings"}, "--freeze embeddings: embeddings is none of encoder, decoder"),
        ({"freeze": "encoder,decoder", "gated_attention": ""}, "leaves nothing to train"),
        (
            {"encoder_layers_to_keep": [0]},
            "--encoder-layers-to-keep: not supported .* --drop-layers",
        ),
        ({"encoder_attention_heads": 3}, "--encoder-attention-heads 3: must divide .* 16"),
        ({"decoder_attention_heads": 5}, "--decoder-attention-heads 5: must divide"),
        ({"encoder_layer_heads": "4"}, "--encoder-layer-heads 4: must be 2 whole numbers"),
        ({"decoder_layer_heads": "4,x"}, "--decoder-layer-heads 4,x: must be 2 whole numbers"),
        ({"cross_layer_heads": "5,1"}, "--cross-layer-heads 5,1: a layer has at most 4 heads"),
        ({"encoder_layer_ffn": "-1,4"}, "--encoder-layer-ffn -1,4: must be 2 whole numbers"),
        ({"no_cross_attention": True, "gated_attention": "cross"}, "--no-cross-attention"),
        ({"quant_noise_pq": 0.1}, "--quant-noise-pq cannot be used with"),
        ({"gate_temperature": -1.0}, "--gate-temperature -1.0: must be above 0"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        gated_model(**options)


def test_named_architectures_have_the_shapes_of_fairseqs():
    pairs = {
        name: name.replace("transformer_hcg", "transformer")
        for name, model in ARCH_MODEL_REGISTRY.items()
        if model is TransformerHCGModel and name != "transformer_hcg_small"
    }
    assert len(pairs) == 8
    for own, stock in pairs.items():
        args, expected = Namespace(), Namespace()
        ARCH_CONFIG_REGISTRY[own](args)
        ARCH_CONFIG_REGISTRY[stock](expected)
        assert vars(args).items() >= vars(expected).items()
        assert args.gated_attention == "encoder" and args.encoder_layer_heads == ""
    args = Namespace()
    ARCH_CONFIG_REGISTRY["transformer_hcg_small"](args)
    assert (args.encoder_layers, args.decoder_layers, args.encoder_embed_dim) == (2, 2, 512)
    assert (args.encoder_attention_heads, args.decoder_ffn_embed_dim) == (8, 2048)


def test_every_option_reaches_the_model():
    parser = ArgumentParser(argument_default=SUPPRESS)  # as fairseq's group of model options
    TransformerHCGModel.add_args(parser)
    words = (
        "--encoder-embed-dim 16 --encoder-attention-heads 4 --encoder-layers 3 "
        "--decoder-layers 1 --encoder-layer-heads 1,2,3 --decoder-layer-ffn 6 --freeze decoder "
        "--gated-attention cross --gate-lr-scale 4 --dropout 0"
    )
    args = parser.parse_args(words.split())
    ARCH_CONFIG_REGISTRY["transformer_hcg_tiny"](args)
    model = TransformerHCGModel.build_model(args, translation_task())
    assert [a.num_heads for k, a in model.attentions().items() if "encoder" in k] == [1, 2, 3]
    assert model.ffns()["decoder.0"][0].out_features == 6
    assert model.frozen == ["decoder"]
    assert model.gates()["cross.0"].lr_scale == 4.0


def test_updates_are_counted():
    model = gated_model()
    model.set_num_updates(17)
    assert model.num_updates == 17
