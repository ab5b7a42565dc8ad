"""`fairtale perplexity`: figures of a tiny GPT-2 against a plain computation."""

import math

import pytest

from fairtale.cli.main import main
from fairtale.cli.perplexity import RENAMED_OPTIONS, windows
from fairtale.compat.torchaudio import hide_torchaudio
from tests.cli.fairtale_command import assert_user_error, fairtale

hide_torchaudio()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

POSITIONS = 24
TEXTS = ["Once upon a time", "a dog met <|endoftext|> a cat", "é", "the end of a long story " * 6]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A random GPT-2 of 24 positions that reads single bytes and a few pairs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(fast), n_positions=POSITIONS, n_embd=16, n_layer=2, n_head=2,
        initializer_range=0.5, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("judge") / "tiny-judge"
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def reference(folder, texts, window=POSITIONS, stride=POSITIONS // 2, begin=True):
    """``(perplexity, bits per byte, tokens)``, one token at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    nll, count = 0.0, 0
    for text in texts:
        ids = ([0] if begin else []) + tokenizer(text, split_special_tokens=True)["input_ids"]
        for target in range(1, len(ids)):
            # The first window whose end lies beyond the target.
            start = max(0, -(-(target + 1 - window) // stride)) * stride
            with torch.no_grad():
                logits = model(torch.tensor([ids[start:target]])).logits[0, -1]
            nll -= torch.log_softmax(logits, 0)[ids[target]].item()
            count += 1
    num_bytes = sum(len(text.encode()) for text in texts)
    return math.exp(nll / count), nll / math.log(2) / num_bytes, count


def figures(done):
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["text", "texts", "tokens", "bytes", "perplexity", "bits/byte"]
    name, texts, tokens, num_bytes, perplexity, bits = rows[1]
    return int(texts), int(tokens), int(num_bytes), float(perplexity), float(bits)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["--batch-size", "1"], {}),
        (["--window", "10", "--stride", "3"], {"window": 10, "stride": 3}),
        (["--no-begin"], {"begin": False}),
    ],
)
def test_figures_equal_a_plain_computation(judge, tmp_path, options, expected):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[:2] + [" "] + TEXTS[2:]) + "\n")
    stripped = [text.strip() for text in TEXTS]
    perplexity, bits, tokens = reference(judge, stripped, **expected)
    done = fairtale("perplexity", "a.txt", "--model", judge, *options, cwd=tmp_path)
    assert figures(done) == (
        4,
        tokens,
        sum(len(text.encode()) for text in stripped),
        pytest.approx(perplexity, rel=1e-4),
        pytest.approx(bits, rel=1e-3),
    )
    assert "empty texts skipped: 1" in done.stdout
    signature = done.stdout.splitlines()[-1]
    assert signature.startswith("model:tiny-judge|window:")
    assert f"begin:{'none' if options == ['--no-begin'] else '<|endoftext|>'}" in signature
    assert "|separator:line|dtype:float32|device:cpu|transformers:" in signature


@pytest.mark.parametrize("size", [2, 3, 8])
def test_every_token_but_the_first_is_scored_once(size):
    for stride in range(1, size):
        for length in range(0, 40):
            scored = []
            for begin, end, first in windows(length, size, stride):
                assert begin < first < end <= begin + size
                assert first - begin >= min(first, size - stride)  # what the help promises
                scored += range(first, end)
            assert scored == list(range(1, length))


def test_separator_and_table(judge, tmp_path):
    (tmp_path / "a.txt").write_text("Once upon\na time\n<|endoftext|>\nthe end\n<|endoftext|>\n")
    (tmp_path / "b.txt").write_text("the end\n")
    done = fairtale(
        "perplexity", "a.txt", "b.txt", "--model", judge, "--separator", "<|endoftext|>",
        "--table", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == "| text | texts | tokens | bytes | perplexity | bits/byte |".split()
    assert set(lines[1]) <= set("|-: ")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4]]
    assert [row[:2] for row in cells] == [["a.txt", "2"], ["b.txt", "1"]]
    perplexity, bits, tokens = reference(judge, ["Once upon\na time", "the end"])
    assert int(cells[0][2]) == tokens
    assert float(cells[0][4]) == pytest.approx(perplexity, rel=1e-4)
    assert "separator:'<|endoftext|>'" in lines[4]


def test_weights_that_are_pickled_are_loaded_without_running_code(judge, tmp_path):
    import os
    import shutil

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    folder = tmp_path / "old"
    shutil.copytree(judge, folder)
    (tmp_path / "a.txt").write_text("the end\n")
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    done = fairtale("perplexity", "a.txt", "--model", folder, cwd=tmp_path)
    assert figures(done)[3] == pytest.approx(reference(judge, ["the end"])[0], rel=1e-4)
    torch.save({**weights, "evil": Evil()}, folder / "pytorch_model.bin")
    done = fairtale("perplexity", "a.txt", "--model", folder, cwd=tmp_path)
    assert_user_error(done, "--model", "not a causal language model")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "options", "parts"),
    [
        (b" \n\n", [], ["a.txt: no text in it"]),
        (b"", [], ["a.txt: no text in it"]),
        (b"x\n", ["--no-begin"], ["no token was scored"]),
        (b"caf\xe9\n", [], ["a.txt:1", "not UTF-8"]),
        (b"x\n", ["--window", "25"], ["--window 25", "at most 24"]),
        (b"x\n", ["--window", "8", "--stride", "8"], ["--stride 8", "window of 8"]),
        (b"x\n", ["--window", "1"], ["--window 1"]),
    ],
)
def test_bad_input(judge, tmp_path, capsys, data, options, parts):
    (tmp_path / "a.txt").write_bytes(data)
    assert_error_here(capsys, tmp_path / "a.txt", judge, options, parts)


def test_the_device_is_chosen_as_in_fairseq(judge, tmp_path):
    (tmp_path / "a.txt").write_text("the end\n")
    done = fairtale("perplexity", "a.txt", "--model", judge, "--cpu", cwd=tmp_path)
    assert "device:cpu" in done.stdout.splitlines()[-1]
    done = fairtale("perplexity", "a.txt", "--model", judge, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 2 and "--device" in done.stderr
    assert RENAMED_OPTIONS == {"--device": "--cpu"}


def test_folders_without_a_model(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x\n")
    text = tmp_path / "a.txt"
    assert_error_here(capsys, text, "gpt2-large", [], ["--model gpt2-large", "not a folder"])
    assert_error_here(capsys, text, tmp_path, [], ["not a causal language model"])


def assert_error_here(capsys, text, model, options, parts):
    """As :func:`assert_user_error`, without the ten seconds of another process."""
    assert main(["perplexity", str(text), "--model", str(model), *options]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line
