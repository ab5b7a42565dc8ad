"""``gpt``: its interface, its named shapes, its options, and its check of checkpoints."""

from dataclasses import fields

import pytest
import torch
from fairseq import models, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from fairtale.data.corpus.tokenizer_dictionary import TokenizerDictionary
from fairtale.errors import UserError
from fairtale.interfaces import ShowsOutputWeight
from fairtale.modules import fast_gemm
from tests.helpers import random_rows, tiny_dictionary, tiny_model, tiny_task
from user_dir.models.gpt import GPTConfig, GPTModel


class Bare:
    """A task reduced to what a model asks of it."""

    def __init__(self, num_symbols, positions):
        self.dictionary = tiny_dictionary(num_symbols - 4)
        self.needed_positions = self.tokens_per_sample = positions
        self.num_segments = 0


def parse(*argv):
    """Return the model's config as ``fairseq-train`` makes it of a command line."""
    argv = ["data", "--task", "story_lm", *argv]
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=argv)
    return convert_namespace_to_omegaconf(args).model


def count_parameters(arch, num_symbols, positions, *argv):
    with torch.device("meta"):  # shapes only: no weight is allocated
        model = GPTModel.build_model(parse("--arch", arch, *argv), Bare(num_symbols, positions))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("arch", "num_symbols", "positions", "expected"),
    [
        # layers x (12 C^2 + 13 C) + V C + positions x C + 2 C
        ("gpt_tiny", 5120, 256, 1_481_472),
        ("gpt_story_24m", 5120, 256, 21_667_840),
        ("gpt_112m_half", 50257, 1024, 81_912_576),
        ("gpt_112m", 50257, 1024, 124_439_808),  # published for GPT-2 small
        ("gpt_345m", 50257, 1024, 354_823_168),  # published for GPT-2 medium
    ],
)
def test_number_of_parameters(arch, num_symbols, positions, expected):
    assert count_parameters(arch, num_symbols, positions) == expected


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("gpt_tiny", (128, 512, 4, 4)),
        ("gpt_story_24m", (512, 2048, 6, 8)),
        ("gpt_112m_half", (768, 3072, 6, 6)),
        ("gpt_112m", (768, 3072, 12, 12)),
        ("gpt_345m", (1024, 4096, 24, 16)),
    ],
)
def test_architectures_have_their_shapes(arch, shape):
    args = parse("--arch", arch)
    names = ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")
    assert tuple(getattr(args, f"decoder_{name}") for name in names) == shape
    assert args.dropout == 0.1 and args.activation_fn == "gelu_accurate"
    assert args.attention_dropout == (0.0 if arch in ("gpt_tiny", "gpt_story_24m") else 0.1)
    assert args.decoder_normalize_after is False and args.checkpoint_activations is False


def test_options_overrule_the_architecture():
    args = parse("--arch", "gpt_story_24m", "--decoder-layers", "2", "--attention-dropout", "0.3")
    assert (args.decoder_layers, args.attention_dropout) == (2, 0.3)
    assert args.decoder_embed_dim == 512
    # the FFN follows the architecture's width, not another width given
    assert parse("--arch", "gpt_tiny", "--decoder-embed-dim", "64").decoder_ffn_embed_dim == 512


class Recorder:
    """Hands out a config's values and remembers which were asked for."""

    def __init__(self, cfg):
        self._cfg, self._asked = cfg, set()

    def __getattr__(self, name):
        self._asked.add(name)
        return getattr(self._cfg, name)


def test_every_option_is_consumed():
    cfg = Recorder(GPTConfig(decoder_embed_dim=16, decoder_layers=1, decoder_attention_heads=2))
    GPTModel.build_model(cfg, Bare(24, 16))
    assert {f.name for f in fields(GPTConfig)} - {"_name"} <= cfg._asked


def built(positions=16, **values):
    shape = dict(
        decoder_embed_dim=16,
        decoder_ffn_embed_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
    )
    return GPTModel.build_model(GPTConfig(**{**shape, **values}), Bare(24, positions))


def test_options_reach_the_modules():
    model = built(
        dropout=0.11,
        attention_dropout=0.12,
        activation_dropout=0.13,
        activation_fn="relu",
        decoder_normalize_after=True,
        checkpoint_activations=True,
        layer_norm_eps=1e-3,
        untied_output=True,
        max_target_positions=40,
    )
    transformer = model.transformer
    layer = transformer.layers[1]
    assert (transformer.dropout, layer.dropout) == (0.11, 0.11)
    assert (layer.self_attn.dropout, layer.activation_dropout) == (0.12, 0.13)
    assert layer.activation(torch.tensor(-1.0)) == 0
    assert transformer.layer_norm is None and not layer.normalize_before
    assert transformer.checkpoint_activations
    assert layer.final_layer_norm.eps == layer.self_attn_layer_norm.eps == 1e-3
    assert model.output_weight() is transformer.output_projection.weight
    assert transformer.embed_positions.weight.shape == (40, 16)
    assert model.max_positions() == model.max_decoder_positions() == 40
    assert built().max_positions() == 16
    assert transformer.embed_tokens.padding_idx == 1


def test_compile_is_asked_of_each_layer(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **kw: calls.append((self, kw)))
    plain, compiled = built(), built(compile=True)
    assert plain is not compiled
    assert calls == [(layer, {"dynamic": True}) for layer in compiled.transformer.layers]


@pytest.mark.slow
def test_compiled_layers_compute_the_same():
    plain, compiled = (
        built(dropout=0.0, attention_dropout=0.0, compile=choice) for choice in (False, True)
    )
    compiled.load_state_dict(plain.state_dict())
    tokens = torch.stack(random_rows([8, 8]))
    results = []
    for model in (plain, compiled):
        logits, _ = model.train()(tokens)
        logits.sin().sum().backward()
        results.append([logits] + [p.grad for p in model.parameters()])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_building_a_model_leaves_the_precision_of_the_process_alone(monkeypatch):
    monkeypatch.setattr(fast_gemm, "use_onednn", lambda: True)
    monkeypatch.setattr(fast_gemm, "_set_precision", lambda value: pytest.fail("was set"))
    built()


def test_segments_are_those_of_the_task():
    task = Bare(24, 16)
    task.num_segments = 3
    cfg = GPTConfig(decoder_embed_dim=16, decoder_layers=1, decoder_attention_heads=2)
    assert GPTModel.build_model(cfg, task).transformer.embed_segments.num_embeddings == 3
    assert built().transformer.embed_segments is None


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="--decoder-embed-dim 16 .* --decoder-attention-heads 3"):
        built(decoder_attention_heads=3)


def test_the_eps_must_be_positive():
    with pytest.raises(UserError, match="--layer-norm-eps 0.0: must be greater than 0"):
        built(layer_norm_eps=0.0)


def test_entries_without_a_token_are_not_predicted():
    task = Bare(24, 16)
    symbols = [f"w{i}" for i in range(20)]
    task.dictionary = TokenizerDictionary.with_roles(symbols, {"eos": 3})
    cfg = GPTConfig(decoder_embed_dim=16, decoder_layers=1, decoder_attention_heads=2)
    model = GPTModel.build_model(cfg, task)
    assert model.transformer.embed_tokens.weight.shape == (22, 16)
    assert model.output_weight().shape == (20, 16)
    logits, _ = model(torch.stack(random_rows([4], 20)))
    assert logits.shape == (1, 4, 22) and logits[..., 20:].eq(-torch.inf).all()
    assert model.get_normalized_probs((logits, None), log_probs=False)[..., 20:].eq(0).all()
    target = torch.tensor([[4, 19, 20]])  # 20 is the padding
    assert model.get_targets({"target": target}, None) is target
    with pytest.raises(UserError, match="the data contain <unk>, which the model's tokenizer"):
        model.get_targets({"target": torch.tensor([[4, 21]])}, None)


# -------------------------------------------------------------------- fairseq's interface


def test_forward_returns_what_criterions_expect():
    model = tiny_model()
    tokens = torch.stack(random_rows([5, 5, 5]))
    logits, extra = model(src_tokens=tokens, src_lengths=torch.tensor([5, 5, 5]))
    assert logits.shape == (3, 5, 24) and extra is None
    features, _ = model.extract_features(tokens)
    assert torch.equal(features, model(tokens, features_only=True)[0])
    torch.testing.assert_close(features @ model.output_weight().t(), logits)
    assert model.output_weight() is model.transformer.embed_tokens.weight
    assert isinstance(model, ShowsOutputWeight)
    target = torch.stack(random_rows([5, 5, 5], seed=1))
    assert model.get_targets({"target": target}, (logits, None)) is target


def test_probabilities_are_fp32():
    model = tiny_model().to(torch.bfloat16)
    out = model(torch.stack(random_rows([4])))
    logs = model.get_normalized_probs(out, log_probs=True)
    probs = model.get_normalized_probs(out, log_probs=False)
    assert out[0].dtype == torch.bfloat16 and logs.dtype == probs.dtype == torch.float32
    expected = out[0].float().exp() / out[0].float().exp().sum(-1, keepdim=True)
    torch.testing.assert_close(probs, expected)
    torch.testing.assert_close(logs, expected.log(), atol=1e-5, rtol=1e-5)


def test_it_reads_the_collated_batches():
    """A padded and a packed batch of the same stories give each token the same logits."""
    from fairtale.data.story.dataset import StoryDataset

    model, rows = tiny_model(), random_rows([4, 7, 2])
    stories = [torch.cat([r, torch.tensor([2])]) for r in rows]
    found = []
    for pack in (False, True):
        dataset = StoryDataset(
            stories, [5, 8, 3], model.dictionary, 16, torch.ones(24).long(), pack=pack
        )
        batch = dataset.collater([dataset[i] for i in range(3)])
        logits, _ = model(**batch["net_input"])
        found.append(logits[batch["target"] != 1])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_seq2seq_rows_see_their_prefix_in_both_directions():
    """``seq2seq`` reads packed dialogs as the encoder and the decoder would."""
    model, rows = tiny_model(), random_rows([5, 4, 6])
    prefixes, responses = torch.tensor([3, 1, 4]), torch.tensor([2, 3, 2])
    logits, _ = model(
        torch.cat(rows)[None],
        positions=torch.cat([torch.arange(len(r)) for r in rows])[None],
        sides={"prefix_lengths": prefixes, "response_lengths": responses, "longest": (4, 3)},
        seq2seq=True,
    )
    for row, n, found in zip(rows, prefixes, logits[0].split([5, 4, 6])):
        out = model.encoder(row[None, :n], n[None], bidirectional=True)
        tokens = torch.cat([torch.tensor([2]), row[n:]])[None]
        expected = model.decoder(tokens, out)[0][0]
        torch.testing.assert_close(found[n - 1 :], expected, atol=1e-5, rtol=1e-5)


# -------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_another_dictionary_or_length_is_refused():
    state = tiny_model().state_dict()
    with pytest.raises(UserError, match="24 dictionary entries, but the model has 29: .*dict.txt"):
        tiny_model(tiny_dictionary(25)).load_state_dict(dict(state))
    with pytest.raises(UserError, match="16 positions, but the model has 12: .*--max-target"):
        tiny_model(max_positions=12).load_state_dict(dict(state))
    other = tiny_model(seed=5)
    other.load_state_dict(dict(state))
    tokens = torch.stack(random_rows([6]))
    assert torch.equal(other(tokens)[0], tiny_model()(tokens)[0])


def test_a_checkpoint_and_its_model_are_both_tied_or_both_untied():
    tied, untied = (tiny_model(untied_output=choice).state_dict() for choice in (False, True))
    with pytest.raises(UserError, match="an output matrix besides .*: give --untied-output"):
        tiny_model().load_state_dict(dict(untied))
    with pytest.raises(UserError, match="no output matrix besides .*: leave out --untied-output"):
        tiny_model(untied_output=True).load_state_dict(dict(tied))
    tiny_model(seed=5, untied_output=True).load_state_dict(dict(untied))


def test_a_model_of_dialogs_begins_as_the_model_of_text_that_it_is_made_from():
    plain, dialogs = tiny_model(), tiny_model(seed=5, num_segments=4)
    dialogs.load_state_dict(plain.state_dict())
    tokens, segments = torch.stack(random_rows([6])), torch.tensor([[2, 2, 2, 1, 1, 1]])
    assert torch.equal(dialogs(tokens, segments=segments)[0], plain(tokens)[0])
    with pytest.raises(UserError, match="trained on dialogs.*: use --task dialog_lm"):
        tiny_model().load_state_dict(dialogs.state_dict())


def test_the_settings_of_an_older_checkpoint_lack_new_options():
    cfg = OmegaConf.structured(GPTConfig(decoder_embed_dim=16, decoder_layers=1))
    OmegaConf.set_struct(cfg, False)
    cfg._name, cfg.decoder_attention_heads, cfg.max_target_positions = "gpt", 2, 16
    for name in ("layer_norm_eps", "untied_output"):
        cfg.pop(name)
    model = models.build_model(cfg, tiny_task(), from_checkpoint=True)
    assert model.transformer.layer_norm.eps == 1e-5
    assert model.transformer.output_projection is None


def test_the_task_decides_the_positions_of_a_new_model():
    args = parse("--arch", "gpt_tiny", "--decoder-layers", "1")
    model = tiny_task(tokens_per_sample=33).build_model(args)
    assert model.max_positions() == 33 and args.max_target_positions == 33
    args = parse("--arch", "gpt_tiny", "--decoder-layers", "1", "--max-target-positions", "20")
    with pytest.raises(UserError, match="33 .* 20: lower --tokens-per-sample"):
        tiny_task(tokens_per_sample=33).build_model(args)


def test_a_misspelt_key_of_a_batch_is_an_error():
    """Neither side swallows what it does not know: a mask that nobody reads would be no mask."""
    model, rows = tiny_model(), torch.tensor([[2, 5, 6]])
    with pytest.raises(TypeError, match="segmets"):
        model(rows, segmets=torch.zeros_like(rows))
    with pytest.raises(TypeError, match="bidirectionel"):
        model.encoder(rows, torch.tensor([3]), bidirectionel=True)


def test_the_range_of_the_initial_weights():
    shape = "--arch gpt_tiny --decoder-layers 2 --decoder-embed-dim 64 --initializer-range".split()
    model = GPTModel.build_model(parse(*shape, "0.1"), Bare(24, 8))
    layer = model.transformer.layers[1]
    assert layer.fc1.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert layer.fc2.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert GPTConfig().initializer_range == 0.02
    with pytest.raises(UserError, match="--initializer-range 0.0: must be > 0"):
        GPTModel.build_model(parse(*shape, "0"), Bare(24, 8))


def test_a_checkpoint_may_lack_newer_options():
    shape = {"_name": "gpt_tiny", "decoder_embed_dim": 16, "decoder_layers": 1}
    shape |= {"decoder_attention_heads": 2, "decoder_ffn_embed_dim": 8}
    model = GPTModel.build_model(OmegaConf.create(shape), Bare(24, 8))
    assert model.transformer.layers[0].fc1.weight.shape == (8, 16)
