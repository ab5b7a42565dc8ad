"""Folders that transformers writes are imported, and exported ones are loaded by transformers.

Tolerance: 1e-4 in fp32, for logits of about 10 and for losses in nats. Both sum in fp32 in
different orders; the differences seen are a tenth of that.
"""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fairtale.compat import read_checkpoint
from fairtale.compat.torchaudio import hide_torchaudio
from fairtale.errors import UserError
from fairtale.generation.options import DecodingOptions
from fairtale.generation.session import Session
from fairtale.interop import gpt2_import
from tests.gpt2_helpers import (
    END,
    assert_equal_tensors,
    change_json,
    run_export,
    run_import,
    tensors_of,
    train_byte_level,
)
from tests.helpers import generate

hide_torchaudio()
transformers = pytest.importorskip("transformers", reason="needs the extra hf")
transformers.logging.disable_progress_bar()

TOLERANCE = 1e-4
PROMPTS = ("Once upon a time", " a hen", "Жила-была курица \U0001f600")
SHAPES = [
    dict(n_embd=32, n_layer=2, n_head=2, n_positions=40),
    dict(
        n_embd=48,
        n_layer=3,
        n_head=4,
        n_positions=57,
        n_inner=100,
        activation_function="relu",
        layer_norm_epsilon=1e-3,
        tie_word_embeddings=False,
        more_entries=7,  # as ruGPT3, whose embedding has rows without a token
    ),
    dict(n_embd=24, n_layer=1, n_head=3, n_positions=64, activation_function="quick_gelu"),
]
PUBLISHED = [
    # rugpt3small's shape and GPT-2's
    dict(n_embd=768, n_layer=12, n_head=12, n_positions=2048, vocab_size=50264),
    dict(n_embd=768, n_layer=12, n_head=12, n_positions=1024, vocab_size=50257),
]


def their_folder(path, more_entries=0, scale=None, **settings):
    """Write a random model with transformers, and a tokenizer; return the model."""
    tokenizer = train_byte_level()
    end = tokenizer.token_to_id(END)
    settings.setdefault("vocab_size", tokenizer.get_vocab_size() + more_entries)
    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=end, eos_token_id=end, **settings)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if scale is not None:
                parameter.normal_(std=scale if parameter.dim() > 1 else 0.2)
                parameter.add_(name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")))
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    return model


def our_model(folder):
    """Return a session on an imported folder."""
    return Session.load(str(folder / "checkpoint.pt"), str(folder), cpu=True)


def random_tokens(model, rows, length):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(model.config.vocab_size, (rows, length), generator=generator)


def compare(session, theirs, rows=3):
    """Compare logits, loss, and greedy continuations of fairseq's generator and of the session."""
    model, v = session.model, theirs.config.vocab_size
    length = min(theirs.config.n_positions, 48)
    tokens = random_tokens(theirs, rows, length)
    with torch.no_grad():
        found = model(tokens)[0]
        expected = theirs(tokens, labels=tokens)
    assert expected.logits.std() > 0.3  # worth comparing
    torch.testing.assert_close(found[..., :v], expected.logits, atol=TOLERANCE, rtol=0)
    assert found[..., v:].eq(-torch.inf).all()
    loss = F.cross_entropy(found[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, expected.loss, atol=TOLERANCE, rtol=0)
    task = session.task
    prompts = [task.encode_prompt(text)[:-1].tolist() for text in PROMPTS]
    expected = [greedy(theirs, task.dictionary.bos(), prompt, 12) for prompt in prompts]
    hypos = generate(task, [model], prompts, max_len_b=12)
    assert [without_end(h[0]["tokens"].tolist(), session) for h in hypos] == expected
    options = DecodingOptions(max_len_b=12, sampling_topk=1)
    for text, tokens in zip(PROMPTS, expected):
        assert session.continue_text(text, options) == task.decode_ids(tokens)


def greedy(theirs, bos, prompt, count):
    tokens = torch.tensor([[bos, *prompt]])
    found = theirs.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=1,
        pad_token_id=0,
    )[0, tokens.size(1) :].tolist()
    return [t for t in found if t != theirs.config.eos_token_id]


def without_end(tokens, session):
    return [t for t in tokens if t != session.task.dictionary.eos()]


def assert_round_trips(folder, imported, tmp_path):
    """Export and import give the same bits in both directions; transformers loads the export."""
    said = run_export(imported / "checkpoint.pt", tmp_path / "exported")
    assert "differ from those of transformers by at most" in said
    assert_equal_tensors(tensors_of(tmp_path / "exported"), tensors_of(folder))
    run_import(tmp_path / "exported", tmp_path / "again")
    ours, again = (
        read_checkpoint(str(p / "checkpoint.pt")) for p in (imported, tmp_path / "again")
    )
    assert_equal_tensors(again["model"], ours["model"])
    return transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "exported").eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways(shape, tmp_path):
    theirs = their_folder(tmp_path / "hf", scale=0.4, **shape)
    said = run_import(tmp_path / "hf", tmp_path / "imported")
    assert "logits of 48 tokens differ from those of transformers by at most" in said
    session = our_model(tmp_path / "imported")
    compare(session, theirs)
    exported = assert_round_trips(tmp_path / "hf", tmp_path / "imported", tmp_path)
    for name, value in theirs.config.to_dict().items():
        if name in shape or name in ("n_inner", "bos_token_id", "eos_token_id", "vocab_size"):
            expected = 4 * theirs.config.n_embd if name == "n_inner" and value is None else value
            assert getattr(exported.config, name) == expected, name
    assert exported.generation_config.eos_token_id == theirs.config.eos_token_id
    compare(session, exported, rows=1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", PUBLISHED)
def test_published_shapes(shape, tmp_path):
    theirs = their_folder(tmp_path / "hf", scale=0.06, **shape)
    run_import(tmp_path / "hf", tmp_path / "imported")
    compare(our_model(tmp_path / "imported"), theirs)
    del theirs
    assert_round_trips(tmp_path / "hf", tmp_path / "imported", tmp_path)


def test_transformers_reads_the_exported_tokenizer(tmp_path):
    their_folder(tmp_path / "hf", **SHAPES[0])
    run_import(tmp_path / "hf", tmp_path / "imported")
    run_export(tmp_path / "imported" / "checkpoint.pt", tmp_path / "out", max_shard_bytes=20000)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    session = our_model(tmp_path / "imported")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_token_id) == (END, END, 280)
    assert len(tokenizer) == 281 and tokenizer.model_max_length == 40
    for text in ("Once upon a time", " a  hen\n\n12", f"курица {END} \U0001f600", "\u00a0\t."):
        ids = tokenizer(text)["input_ids"]
        assert ids == session.task.encode_prompt(text)[:-1].tolist()
        assert tokenizer.decode(ids) == text
    # the older form, for programs without tokenizer.json
    old = transformers.GPT2Tokenizer.from_pretrained(tmp_path / "out")
    assert old("a hen, курица")["input_ids"] == tokenizer("a hen, курица")["input_ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # from shards
    assert_equal_tensors(
        {n: p.data for n, p in model.named_parameters()},
        load_file(tmp_path / "hf" / "model.safetensors"),
    )


def test_half_precision_is_loaded_by_transformers(tmp_path):
    their_folder(tmp_path / "hf", scale=0.4, **SHAPES[0])
    run_import(tmp_path / "hf", tmp_path / "imported")
    said = run_export(tmp_path / "imported" / "checkpoint.pt", tmp_path / "out", dtype="bfloat16")
    assert "which includes rounding to bfloat16" in said
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16


def test_a_difference_of_logits_is_refused(tmp_path, monkeypatch):
    """The check at the end sees a wrong activation, and nothing is written."""
    their_folder(tmp_path / "hf", scale=0.4, **SHAPES[0])
    monkeypatch.setitem(gpt2_import.read_gpt2_folder.__globals__, "shape_of_config", wrong_shape)
    with pytest.raises(UserError, match="more than rounding; nothing was written"):
        run_import(tmp_path / "hf", tmp_path / "imported")
    assert {p.name for p in tmp_path.iterdir()} == {"hf"}


def wrong_shape(config, path):
    from dataclasses import replace

    from fairtale.interop.gpt2_config import shape_of_config

    return replace(shape_of_config(config, path), activation_fn="gelu")


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu", "silu", "relu", "tanh"])
def test_activations(name, tmp_path):
    """Each activation by its name; the check of the import compares with transformers."""
    their_folder(tmp_path / "hf", scale=0.4, **SHAPES[0])
    change_json(tmp_path / "hf" / "config.json", activation_function=name)
    assert "differ from those of transformers" in run_import(tmp_path / "hf", tmp_path / "out")
