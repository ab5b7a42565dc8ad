"""``label_smoothed_kl`` with fairseq's own transformers: the chunked way where it is exact."""

import pytest
import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.models.transformer.transformer_config import DecoderConfig, EncDecBaseConfig
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from torch import nn

from tests.criterion_helpers import NUM_SYMBOLS, PAD, close, make_sample, smoothed_kl
from user_dir.criterions import label_smoothed_kl


def build_translation(task, **changes):
    small = dict(embed_dim=8, ffn_embed_dim=8, layers=1, attention_heads=2)
    cfg = TransformerConfig()
    cfg.encoder = EncDecBaseConfig(**small)
    cfg.decoder = DecoderConfig(**small, input_dim=8, output_dim=8)
    cfg.max_source_positions = cfg.max_target_positions = 20
    cfg.dropout = 0.0
    for name, value in changes.items():
        setattr(cfg, name, value)
    torch.manual_seed(0)
    return TransformerModelBase.build_model(cfg, task)


def build_lm(task, **changes):
    cfg = TransformerLanguageModelConfig(
        decoder_layers=1,
        decoder_embed_dim=8,
        decoder_input_dim=8,
        decoder_output_dim=8,
        decoder_ffn_embed_dim=8,
        decoder_attention_heads=2,
        dropout=0.0,
        add_bos_token=False,
        tokens_per_sample=20,
        max_target_positions=20,
        tpu=False,
        **changes,
    )
    torch.manual_seed(0)
    return TransformerLanguageModel.build_model(cfg, task)


def as_translation(sample):
    net_input = {
        "src_tokens": sample["target"],
        "src_lengths": (sample["target"] != PAD).sum(1),
        "prev_output_tokens": sample["net_input"]["src_tokens"],
    }
    return {**sample, "net_input": net_input}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["translation", "language model"])
def test_stock_transformers_take_the_chunked_way(task, monkeypatch, kind, tied):
    sample = make_sample()
    if kind == "translation":
        model = build_translation(task, share_decoder_input_output_embed=tied)
        sample = as_translation(sample)
    else:
        model = build_lm(task, share_decoder_input_output_embed=tied)
    criterion = smoothed_kl(task, label_smoothing=0.1, report_accuracy=True)
    assert label_smoothed_kl._stock_projection(model) is model.decoder.output_projection.weight
    chunked, calls = label_smoothed_kl.chunked_cross_entropy, []

    def spy(*args, **kwargs):
        calls.append(args)
        return chunked(*args, **kwargs)

    monkeypatch.setattr(label_smoothed_kl, "chunked_cross_entropy", spy)

    def run():
        model.zero_grad()
        loss, _, log = criterion(model, sample)
        loss.backward()
        return log, [p.grad for p in model.parameters()]

    log, grads = run()
    monkeypatch.setattr(label_smoothed_kl, "_stock_projection", lambda model: None)
    other_log, other_grads = run()
    assert len(calls) == 1
    for key in log:
        close(log[key], other_log[key], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grads, other_grads, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_changed_transformers_take_the_ordinary_way(task):
    projection = label_smoothed_kl._stock_projection
    assert projection(build_translation(task)) is not None

    model = build_translation(task)
    model.decoder.output_projection = nn.Linear(8, NUM_SYMBOLS)  # with a bias
    assert projection(model) is None

    class Temperature(TransformerModelBase):
        def get_normalized_probs(self, net_output, log_probs, sample=None):
            return F.log_softmax(net_output[0] / 2, -1)

    model = build_translation(task)
    model.__class__ = Temperature
    assert projection(model) is None

    adaptive = build_lm(task, adaptive_softmax_cutoff="6,9")
    assert projection(adaptive) is None
    loss, _, _ = smoothed_kl(task)(adaptive.eval(), make_sample())
    assert torch.isfinite(loss)


def test_untied_projection_and_unused_parameters(task):
    """DDP with --find-unused-parameters would think the projection unused."""
    for tied in (False, True):
        model = build_translation(task, share_decoder_input_output_embed=tied)
        model.find_unused_parameters = True
        assert (label_smoothed_kl._stock_projection(model) is not None) == tied
