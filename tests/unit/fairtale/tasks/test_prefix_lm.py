"""Prefix language models: evaluation, and continuations during training."""

import logging
from argparse import Namespace

import pytest
import torch
from omegaconf import OmegaConf

from fairtale.data.corpus.vocabulary import TOKENIZER_FILE
from fairtale.errors import UserError
from fairtale.interfaces import ChecksCommand
from fairtale.interop.adapter import Adapter
from fairtale.interop.peft_adapter import write_adapter
from fairtale.modules.lora import AdapterShape
from fairtale.modules.lora_state import base_fingerprint
from tests.helpers import (
    dictionary_of,
    random_rows,
    tiny_dictionary,
    tiny_model,
    tiny_task,
    train_tokenizer,
)
from tests.story_helpers import data_folder, setup
from user_dir.models.gpt import GPTConfig

TEXTS = ["the cat ran to the cat", "a cat and a dog", "the dog ran"]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """Make a data folder with its tokenizer, as prepare.sh does."""
    folder = tmp_path_factory.mktemp("speaking")
    tokenizer = train_tokenizer(folder / TOKENIZER_FILE, TEXTS * 5)
    data_folder(folder, dictionary_of(tokenizer))
    return folder


def test_eval_lm_scores_every_story(tmp_path):
    rows = random_rows([3, 5, 2, 7, 4, 0, 30])
    folder = data_folder(tmp_path / "a", tiny_dictionary(), test=rows)
    task = setup(folder, tokens_per_sample=16)
    task.load_dataset("test")
    options = dict(max_tokens=16, max_positions=16, num_workers=0, data_buffer_size=0)
    batches = list(task.eval_lm_dataloader(task.dataset("test"), **options))
    assert sorted(n for b in batches for n in b["id"].tolist()) == [0, 1, 2, 3, 4, 6]
    assert sum(b["ntokens"] for b in batches) == 4 + 6 + 3 + 8 + 5 + 16
    with pytest.raises(UserError, match="--context-window 3"):
        task.eval_lm_dataloader(task.dataset("test"), context_window=3, **options)
    with pytest.raises(UserError, match="0 of 7 samples are left"):
        task.eval_lm_dataloader(task.dataset("test"), **{**options, "max_positions": 2})


def test_samples_are_written_at_each_validation(speaking, caplog):
    task = setup(speaking, tokens_per_sample=16, sample_prompts="the cat| |a dog", sample_length=4)
    model = tiny_model(task.dictionary)
    stats = {"num_updates": 7}
    with caplog.at_level(logging.INFO):
        task.post_validate(model, stats, agg=None)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("sample ")]
    assert len(lines) == 2  # an empty prompt is ignored
    assert lines[0].startswith("sample 0 @ 7 updates: the cat|")
    assert lines[1].startswith("sample 1 @ 7 updates: a dog|")
    assert stats["sample_tok_s"] > 0


def test_each_validation_logs_what_is_trained_and_the_memory(speaking):
    task = setup(speaking)
    model = tiny_model(task.dictionary)
    model.transformer.layers.requires_grad_(False)
    stats = {}
    task.post_validate(model, stats, agg=None)
    layers = sum(p.numel() for p in model.transformer.layers.parameters())
    assert stats["trained_params"] == sum(p.numel() for p in model.parameters()) - layers > 0
    assert 50 < stats["peak_mib"] < 1_000_000


def test_without_prompts_nothing_is_sampled(speaking, caplog):
    task = setup(speaking)
    stats = {"num_updates": 7}
    with caplog.at_level(logging.INFO):
        task.post_validate(tiny_model(task.dictionary), stats, agg=None)
    assert "sample_tok_s" not in stats and "sample " not in caplog.text


def test_only_the_first_worker_samples(speaking, monkeypatch):
    task = setup(speaking, sample_prompts="the cat")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    stats = {"num_updates": 7}
    task.post_validate(tiny_model(task.dictionary), stats, agg=None)
    assert "sample_tok_s" not in stats


# -------------------------------------------------------------------------------- adapters


@pytest.fixture
def adapted(tmp_path):
    """Write a base and its adapter; return both paths, the base's state and its model."""
    pytest.importorskip("safetensors", reason="needs the extra hf")
    model = tiny_model()
    base = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {
        (layer, "out"): (
            torch.randn(2, 16, generator=generator),
            torch.randn(16, 2, generator=generator),
        )
        for layer in range(2)
    }
    adapter = Adapter("test", AdapterShape(2, 4.0, 0.0, ("out",)), weights, base_fingerprint(base))
    write_adapter(str(tmp_path / "adapter"), adapter)
    torch.save({"args": Namespace(task="story_lm"), "model": base}, tmp_path / "base.pt")
    return str(tmp_path / "adapter"), str(tmp_path / "base.pt"), base, model


def model_options():
    return GPTConfig(
        _name="gpt",
        decoder_embed_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_embed_dim=32,
        max_target_positions=16,
    )


def test_a_loaded_model_gets_the_adapter(adapted):
    folder, _, base, plain = adapted
    task = tiny_task(lora_adapter=folder)
    model = task.build_model(OmegaConf.structured(model_options()), from_checkpoint=True).eval()
    model.load_state_dict(dict(base))
    tokens = torch.tensor([[5, 9, 7]])
    assert (model(tokens)[0] - plain(tokens)[0]).abs().max() > 0.1
    with pytest.raises(UserError, match="--lora-adapter .* is for decoding and evaluation"):
        task.build_model(OmegaConf.structured(model_options()))


def test_a_command_is_checked_before_its_model_is_loaded(adapted):
    folder, path, base, _ = adapted
    assert isinstance(type(tiny_task()), ChecksCommand)
    check = type(tiny_task()).check_command
    check(Namespace(path=path))
    check(Namespace(path=path, lora_adapter=None))
    check(Namespace(path=path, lora_adapter=folder))
    other = {**base, "transformer.layer_norm.bias": torch.zeros(16)}
    torch.save({"args": Namespace(), "model": other}, path + "2")
    for paths in (path + "2", f"{path}:{path}2"):
        with pytest.raises(UserError, match="made for the base with fingerprint"):
            check(Namespace(path=paths, lora_adapter=folder))
