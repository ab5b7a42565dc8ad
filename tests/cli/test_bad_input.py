"""A mistake ends with a status that is not 0 and one readable line, and leaves nothing behind."""

import pytest
import torch

COMMANDS = ["generate", "interactive", "validate", "eval_lm"]
LONG = "Once upon a time " * 60


def assert_told(result, *words):
    """Check that stderr is a single line that begins with ``error:`` and contains all parts."""
    assert result.status not in (0, None) and result.status > 0
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err[-3000:]
    assert lines[0].startswith("error: ")
    for word in words:
        assert str(word) in lines[0], lines[0]
    assert len(lines[0]) < 400


def assert_no_output(result):
    assert not result.rows("H") and not result.rows("D")


# ------------------------------------------------------------------------ generation options


@pytest.mark.parametrize(
    "options, told",
    [
        ("--sampling-top 5", ["unrecognized arguments: --sampling-top 5", "--sampling-topk"]),
        ("--sampling --sampling-topk ten", ["--sampling-topk", "ten"]),
        ("--sampling-topk 5", ["--sampling-topk 5", "needs --sampling"]),
        ("--temperature 0", ["--temperature 0", "must be > 0"]),
        ("--beam 2 --nbest 3", ["--nbest 3", "--beam 2"]),
        # several mistakes in one command
        ("--beam 2 --nbest 3 --temperature 0", ["--nbest 3", "--temperature 0"]),
        ("--sampling --beam 3", ["--sampling", "--nbest", "--beam"]),
        ("--gen-subset nothing", ["split nothing not found in"]),
        ("--tokens-per-sample 4000", ["4000", "model's 96", "lower --tokens-per-sample"]),
        ("--prompt-tokens -1", ["--prompt-tokens -1"]),
    ],
)
def test_generation_options(options, told, fairseq, stories, checkpoint, tmp_path):
    words = [stories.bin, "--path", checkpoint, "--cpu", *options.split()]
    result = fairseq.run("generate", *words, check=False)
    assert_told(result, *told)
    assert_no_output(result)


def test_traceback_on_demand(fairseq, stories, checkpoint):
    words = [stories.bin, "--path", checkpoint, "--cpu", "--temperature", 0]
    result = fairseq.run("generate", *words, check=False, env={"FAIRTALE_TRACEBACK": "1"})
    assert result.status != 0 and "Traceback (most recent call last)" in result.err
    assert "UserError: --temperature 0.0" in result.error


# ------------------------------------------------------------------------------------ prompts


def test_prompt_longer_than_the_positions(fairseq, stories, checkpoint):
    words = [stories.bin, "--path", checkpoint, "--cpu"]
    length = len(stories.tokenizer.encode(LONG))
    # <s> takes one position, and generation needs at least one more
    result = fairseq.run("interactive", *words, stdin=f"Tom\n{LONG}\nBen\n", check=False)
    assert_told(result, f"prompt 2 has {length} tokens", "room for 94", "shorten it")
    assert [number for number, _ in result.rows("H")] == [0]

    words += ["--skip-invalid-size-inputs-valid-test", "--buffer-size", 3]
    result = fairseq.run("interactive", *words, stdin=f"Tom\n{LONG}\nBen\n")
    assert [number for number, _ in result.rows("H")] == [0, 2]
    assert "1 prompts are too long and left out" in result.out


def test_prompt_that_just_fits(fairseq, stories, checkpoint):
    words = [stories.bin, "--path", checkpoint, "--cpu", "--beam", 1]
    prompt = stories.tokenizer.decode(stories.tokenizer.encode(LONG)[:94])
    result = fairseq.run("interactive", *words, stdin=prompt + "\n")
    assert len(result.rows("H")) == 1


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "C.latin-1"])
def test_prompt_that_is_no_utf8(locale, fairseq, stories, checkpoint):
    words = [stories.bin, "--path", checkpoint, "--cpu"]
    env = {"LC_ALL": locale}
    result = fairseq.run("interactive", *words, stdin=b"Tom\n\xff\xfe\n", check=False, env=env)
    assert_told(result, "input line 2 is not valid UTF-8")
    assert [number for number, _ in result.rows("H")] == [0]


def test_prompt_file_that_is_no_utf8(fairseq, stories, checkpoint, tmp_path):
    (tmp_path / "prompts").write_bytes(b"Tom\n\xff\xfe\n")
    words = [stories.bin, "--path", checkpoint, "--cpu", "--input", tmp_path / "prompts"]
    assert_told(fairseq.run("interactive", *words, check=False), "not valid UTF-8", "0xff")


def test_control_characters_are_text(fairseq, stories, checkpoint):
    words = [stories.bin, "--path", checkpoint, "--cpu"]
    result = fairseq.run("interactive", *words, stdin="To\x00m\x07 \x1b[31mred\n\u2028\n")
    assert [number for number, _ in result.rows("H")] == [0, 1]


# ------------------------------------------------------------------------------ dictionaries


@pytest.fixture(scope="module")
def damaged(stories, tmp_path_factory):
    """Copies of the data with a mistake in ``dict.txt``."""
    folder = tmp_path_factory.mktemp("damaged")
    lines = (stories.bin / "dict.txt").read_text(encoding="utf-8").splitlines(True)
    texts = {
        "order": [lines[1], lines[0], *lines[2:]],
        "size": lines[:-1],
        "garbage": ["hello\n", "world\n"],
        "twice": [*lines, lines[0]],
    }
    for name, text in texts.items():
        copy = stories.copy(folder / name)
        (copy / "dict.txt").write_text("".join(text), encoding="utf-8")
    (stories.copy(folder / "missing") / "dict.txt").unlink()
    return folder


@pytest.mark.parametrize(
    "change, name",
    [*(("order", name) for name in COMMANDS), ("size", "generate"), ("size", "validate")],
)
def test_dictionary_of_another_model(name, change, fairseq, checkpoint, damaged):
    words = [damaged / change, "--path", checkpoint, "--cpu", "--max-tokens", 600]
    result = fairseq.run(name, *words, stdin="Tom\n", check=False)
    assert_told(result, "another dictionary", damaged / change / "dict.txt")
    assert_no_output(result)


@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file"])
def test_training_goes_on_with_its_own_dictionary_only(
    option, fairseq, checkpoint, damaged, tmp_path
):
    words = [option, checkpoint, "--tokens-per-sample", 96, "--batch-size", 16, "--max-update", 50]
    words = fairseq.tiny(damaged / "order", tmp_path / "ck", *words)
    result = fairseq.run("train", *words, check=False)
    assert_told(result, "another dictionary", "use the data folder that it was trained on")
    assert not list((tmp_path / "ck").glob("*"))


@pytest.mark.parametrize("change", ["garbage", "twice", "missing"])
def test_dictionary_that_is_none(change, fairseq, damaged, tmp_path):
    words = fairseq.tiny(damaged / change, tmp_path / "ck", "--batch-size", 16)
    result = fairseq.run("train", *words, check=False)
    assert_told(result, damaged / change / "dict.txt")


# --------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("suffix", ["bin", "idx"])
@pytest.mark.parametrize("keep", [0.5, 0.0], ids=["half", "empty"])
def test_data_cut_short(suffix, keep, fairseq, stories, tmp_path):
    """A partially written data-bin is never taken for a complete one."""
    data = stories.copy(tmp_path / "data")
    path = data / f"train.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    words = fairseq.tiny(data, tmp_path / "ck", "--batch-size", 16, "--max-update", 1)
    result = fairseq.run("train", *words, check=False)
    assert_told(result, path, "make the data again")
    assert not list((tmp_path / "ck").glob("*"))


def test_data_of_another_split(fairseq, stories, tmp_path):
    data = stories.copy(tmp_path / "data")
    (data / "train.bin").write_bytes((data / "valid.bin").read_bytes())
    words = fairseq.tiny(data, tmp_path / "ck", "--batch-size", 16, "--max-update", 1)
    assert_told(fairseq.run("train", *words, check=False), data / "train.bin", "its index requires")


@pytest.mark.parametrize(
    "options, told",
    [
        ("{nowhere} --batch-size 8", ["{nowhere}/dict.txt does not exist", "fairseq-preprocess"]),
        ("{data} --batch-size 8 --valid-subset nothing", ["split nothing not found in {data}"]),
        ("{data} --batch-size 8 --train-subset nothing", ["split nothing not found in {data}"]),
        ("{data}", ["--max-tokens or --batch-size"]),
        ("{data} --max-tokens 2", ["dataset is empty", "max number of allowed tokens"]),
        ("{data} --batch-size 8 --tokens-per-sample 1", ["--tokens-per-sample 1", "at least 2"]),
        (
            "{data} --batch-size 8 --tokens-per-sample 50 --max-target-positions 40",
            ["50", "40", "lower --tokens-per-sample"],
        ),
        (
            "{data} --batch-size 8 --decoder-attention-heads 3",
            ["32", "--decoder-attention-heads 3"],
        ),
        ("{data} --batch-size 8 --arch gpt_tini", ["--arch", "gpt_tini", "gpt_tiny"]),
        ("{data} --batch-size 8 --restore-file {nowhere}", ["--restore-file {nowhere}"]),
        ("{data} --batch-size 8 --finetune-from-model {nowhere}", ["{nowhere} does not exist"]),
        ("{data} --batch-size 8 --fp16", ["--fp16", "--bf16"]),
        ("{data} --batch-size 8 --sample-prompts {long}", ["tokens", "shorten the prompt"]),
        ("{data} --batch-size 8 --sample-prompts A --sample-temperature 0", ["temperature 0"]),
        (
            "{data} --batch-size 8 --lr-scheduler reduce_lr_on_validation --lr-patience 0",
            ["--lr-patience 0", "at least 1"],
        ),
    ],
)
def test_training_options(options, told, fairseq, stories, tmp_path):
    """Each is found before the first update, and no checkpoint is written."""
    names = {"data": stories.bin, "nowhere": tmp_path / "nowhere", "long": "Tom,Mia," * 99}
    data, *words = options.format(**names).split()
    words = fairseq.tiny(data, tmp_path / "ck", "--max-update", 3, *words)
    result = fairseq.run("train", *words, check=False)
    assert_told(result, *[text.format(**names) for text in told])
    assert not result.logged("train_inner") and not list((tmp_path / "ck").glob("*"))


def test_a_command_without_arguments(fairseq):
    assert_told(fairseq.run("train", check=False), "--arch is missing", "gpt_tiny")
    for name in ("generate", "interactive", "validate", "eval_lm"):
        assert_told(fairseq.run(name, check=False), "--path is missing")


def test_training_that_explodes(fairseq, stories, tmp_path):
    words = ["--batch-size", 16, "--lr", 1e30, "--max-update", 20, "--no-epoch-checkpoints"]
    result = fairseq.train(stories.bin, tmp_path, *words, check=False)
    assert result.status != 0 and result.error.startswith("error: gradients are Nan/Inf")
    assert "--lr" in result.error and "Traceback" not in result.err
    # fairseq writes crash.pt for debugging.
    assert [path.name for path in tmp_path.iterdir()] == ["crash.pt"]


# -------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("keep", [0.5, 0.1, 0.0], ids=["half", "tenth", "empty"])
def test_checkpoint_cut_short(keep, fairseq, stories, checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    path = tmp_path / "checkpoint_last.pt"
    path.write_bytes(content[: int(keep * len(content))])
    words = [stories.bin, "--path", path, "--cpu"]
    assert_told(fairseq.run("generate", *words, check=False), path, "cut short", "older one")
    if keep == 0.5:
        words = fairseq.tiny(stories.bin, tmp_path, "--batch-size", 16)
        assert_told(fairseq.run("train", *words, check=False), path, "cut short", "older one")
        assert path.read_bytes() == content[: len(content) // 2]  # not overwritten


@pytest.mark.parametrize(
    "content, told",
    [
        ({"weight": torch.zeros(2)}, ["not a fairseq model"]),
        (torch.zeros(3), ["not a fairseq model"]),
        (None, ["refused"]),  # a text file
    ],
    ids=["weights", "tensor", "text"],
)
def test_file_that_is_no_checkpoint(content, told, fairseq, stories, tmp_path):
    path = tmp_path / "model.pt"
    if content is None:
        path.write_text("this is no model\n" * 100)
    else:
        torch.save(content, path)
    words = [stories.bin, "--path", path, "--cpu"]
    assert_told(fairseq.run("generate", *words, check=False), path, *told)


@pytest.mark.parametrize("kind", ["missing", "folder", "second"])
def test_checkpoint_that_is_not_there(kind, fairseq, stories, checkpoint, tmp_path):
    path = tmp_path / "no.pt" if kind != "folder" else tmp_path
    given = path if kind != "second" else f"{checkpoint}:{path}"
    words = [stories.bin, "--path", given, "--cpu"]
    assert_told(fairseq.run("generate", *words, check=False), path)


def test_tokenizer_cut_short(fairseq, stories, checkpoint, tmp_path):
    data = stories.copy(tmp_path / "data")
    model = data / "sentencepiece.bpe.model"
    model.write_bytes(model.read_bytes()[:1000])
    words = [data, "--path", checkpoint, "--cpu"]
    assert_told(fairseq.run("interactive", *words, stdin="Tom\n", check=False), model)
