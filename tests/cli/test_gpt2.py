"""``fairtale gpt2 import`` and ``gpt2 export``, and what fairseq's commands do with a folder."""

import json
import re

import pytest
import torch

from fairtale.compat import read_checkpoint
from tests.cli.conftest import make_stories
from tests.cli.fairtale_command import assert_user_error, fairtale
from tests.gpt2_helpers import (
    END,
    change_json,
    tensors_of,
    write_folder,
)

TRAINING = (
    "--criterion label_smoothed_kl --label-smoothing 0.1 --optimizer adam --lr 0.01 "
    "--batch-size 16 --log-format json --log-interval 1 --data-buffer-size 0 --num-workers 0 --cpu"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder hf/ and texts."""
    folder = tmp_path_factory.mktemp("gpt2")
    write_folder(folder / "hf", n_positions=160, more_entries=3)
    for split, count in (("train", 40), ("valid", 10)):
        lines = "".join(line + "\n" for line in make_stories(count, split))
        (folder / f"{split}.txt").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(fairseq, folder):
    """The imported model with binarised texts, made by the commands of docs/exchange.md."""
    done = fairtale("gpt2", "import", "hf", "--output", "model", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "hf: 2 layers of 16, 2 heads, 160 positions, 284 entries, tied output"
    assert said[1] == f"special tokens: bos {END} (280), eos {END} (280)"
    assert said[2] == "3 entries of the embedding have no token; they are kept"
    assert re.match(
        r"logits of 48 tokens differ from those of transformers by at most \S+e-0", said[3]
    )
    assert said[4] == "wrote model: checkpoint.pt, dict.txt and tokenizer.json"
    words = ["--tokenizer", "model/tokenizer.json", "--output-dir", "pieces", "--quiet"]
    assert fairtale("bpe", "encode", "train.txt", "valid.txt", *words, cwd=folder).returncode == 0
    fairseq.run(
        *("preprocess", "--user-dir", fairseq.user_dir, "--task", "story_lm"),
        *("--only-source", "--workers", 1),
        *("--srcdict", folder / "model" / "dict.txt", "--destdir", folder / "model"),
        *("--trainpref", folder / "pieces" / "train.txt"),
        *("--validpref", folder / "pieces" / "valid.txt"),
    )
    return folder / "model"


@pytest.fixture(scope="module")
def trained(fairseq, data, folder):
    """A training from the imported model, without a word about its shape."""
    words = ["--finetune-from-model", data / "checkpoint.pt", "--save-dir", folder / "trained"]
    result = fairseq.run("train", data, *words, *TRAINING, "--max-epoch", 6)
    losses = [float(record["valid_nll_loss"]) for record in result.logged("valid")]
    assert losses[-1] < losses[0] - 1  # in bits; it learns the texts
    return folder / "trained" / "checkpoint_last.pt"


def test_training_keeps_the_shape(trained, data):
    ours, base = (read_checkpoint(str(p)) for p in (trained, data / "checkpoint.pt"))
    assert {n: t.shape for n, t in ours["model"].items()} == {
        n: t.shape for n, t in base["model"].items()
    }
    changed = {"checkpoint_activations"}
    assert {n: v for n, v in ours["cfg"]["model"].items() if n not in changed} == {
        n: v for n, v in base["cfg"]["model"].items() if n not in changed
    }
    assert ours["task_state"] == base["task_state"]
    # fairseq-validate takes the criterion of the checkpoint, and this one shows bits per byte
    assert base["cfg"]["criterion"]["_name"] == "label_smoothed_kl"
    # padding is not predicted: its embedding has no gradient
    assert not ours["model"]["transformer.embed_tokens.weight"][284:].any()


def test_perplexity_of_the_model_as_it_is(fairseq, data, trained):
    """The uniform model's 284 entries are an upper bound that training leaves far behind."""
    found = []
    for path in (data / "checkpoint.pt", trained):
        words = ["--path", path, "--gen-subset", "valid", "--batch-size", 8, "--cpu"]
        result = fairseq.run("eval_lm", data, *words)
        found.append(float(re.search(r"Perplexity: ([\d.]+)", result.out)[1]))
    assert found[0] > 284 > 60 > found[1]


def test_generation(fairseq, data, trained):
    decode = ["--path", trained, "--cpu", "--beam", 1, "--max-len-b", 12]
    result = fairseq.run("interactive", data, *decode, stdin="Once upon a time\n\n")
    texts = [columns[-1] for _, columns in result.rows("D")]
    assert len(texts) == 2 and all(texts)
    prompts = ["--gen-subset", "valid", "--prompt-tokens", 5, "--batch-size", 8]
    result = fairseq.run("generate", data, *decode, *prompts)
    assert len(result.rows("H")) == 10
    assert "<pad>" not in result.out and "<unk>" not in result.out


def test_export(data, trained, folder):
    words = ["--output", "exported", "--data", data]
    done = fairtale("gpt2", "export", trained, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "differ from those of transformers by at most" in done.stdout
    weights = read_checkpoint(str(trained))["model"]
    found = tensors_of(folder / "exported")
    embedding = weights["transformer.embed_tokens.weight"][:284]
    assert torch.equal(found["transformer.wte.weight"], embedding)


def test_a_model_trained_here(fairseq, folder):
    """A tokenizer and a model of our own, from texts to a folder of Hugging Face."""
    words = ["--output", "tok", "--vocab-size", "300", "--quiet"]
    assert fairtale("bpe", "train", "train.txt", *words, cwd=folder).returncode == 0
    words = ["--tokenizer", "tok/tokenizer.json", "--output-dir", "own", "--quiet"]
    assert fairtale("bpe", "encode", "train.txt", "valid.txt", *words, cwd=folder).returncode == 0
    fairseq.run(
        *("preprocess", "--only-source", "--workers", 1, "--srcdict", folder / "tok" / "dict.txt"),
        *("--trainpref", folder / "own" / "train.txt", "--destdir", folder / "own-bin"),
        *("--validpref", folder / "own" / "valid.txt"),
    )
    tokenizer = (folder / "tok" / "tokenizer.json").read_bytes()
    (folder / "own-bin" / "tokenizer.json").write_bytes(tokenizer)
    words = ["--tokens-per-sample", 96, "--max-epoch", 1, "--batch-size", 16, "--untied-output"]
    fairseq.train(folder / "own-bin", folder / "own-model", *words)
    words = ["own-model/checkpoint_last.pt", "--output", "own-hf"]
    done = fairtale("gpt2", "export", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "differ from those of transformers by at most" in done.stdout
    config = json.loads((folder / "own-hf" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 2, 1)
    assert config["tie_word_embeddings"] is False and config["vocab_size"] == 300


# ------------------------------------------------------------------------------- bad input


def test_a_folder_of_another_architecture(tmp_path):
    hf = write_folder(tmp_path / "hf")
    change_json(hf / "config.json", model_type="gpt_neo")
    done = fairtale("gpt2", "import", "hf", "--output", "out", cwd=tmp_path)
    assert_user_error(done, "hf/config.json: model_type is 'gpt_neo'; only gpt2")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_export_options(folder):
    words = ["model/checkpoint.pt", "--output", "no"]
    done = fairtale("gpt2", "export", *words, "--quantization", "int8", cwd=folder)
    assert_user_error(done, "--quantization: has no effect with --format huggingface")
    done = fairtale("gpt2", "export", *words, "--max-shard-size", "5GX", cwd=folder)
    assert done.returncode == 2 and "'5GX' is not a size such as 5GB" in done.stderr
    assert not (folder / "no").exists()


def test_a_training_on_data_of_another_dictionary(fairseq, data, stories, tmp_path):
    words = ["--finetune-from-model", data / "checkpoint.pt", "--save-dir", tmp_path / "save"]
    result = fairseq.run("train", stories.bin, *words, *TRAINING, "--max-update", 1, check=False)
    assert result.status == 1
    assert "the checkpoint was trained with another dictionary" in result.error
    result = fairseq.run(*("train", data, *words, *TRAINING, "--decoder-layers", 3), check=False)
    assert result.status == 1
    assert "--decoder-layers 3: the weights of" in result.error and "need 2" in result.error
    assert not list(tmp_path.rglob("*.pt"))


def test_a_base_of_another_kind_needs_an_architecture(fairseq, data, tmp_path):
    path = tmp_path / "other.pt"
    cfg = {"task": {"_name": "translation"}, "model": {"_name": "transformer"}}
    torch.save({"cfg": cfg, "args": None, "model": {}}, path)
    result = fairseq.run("train", data, "--finetune-from-model", path, *TRAINING, check=False)
    assert result.status == 1 and "--arch is missing" in result.error
