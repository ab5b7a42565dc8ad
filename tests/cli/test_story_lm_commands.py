"""fairseq's commands on ``story_lm``: each as a real script once, details in forked processes."""

import re
import subprocess
import sys

import pytest

GENERATE = "--gen-subset valid --cpu".split()
NUM_VALID = 37
PROMPT = 5  # tokens


def continuations(result, kind="H"):
    """The text column of the output rows."""
    return [(number, columns[-1]) for number, columns in result.rows(kind)]


def counts(result):
    """Sentences and tokens that fairseq-generate says it has made."""
    found = re.search(r"Translated ([\d,]+) sentences \(([\d,]+) tokens\)", result.out)
    return tuple(int(number.replace(",", "")) for number in found.groups())


# --------------------------------------------------------------------------------- training


def test_train_validates_saves_and_writes_samples(fairseq, stories, tmp_path):
    board = tmp_path / "board"
    words = fairseq.tiny(stories.bin, tmp_path, "--batch-size", 32, "--max-epoch", 2)
    words += ["--sample-prompts", "Once upon a time|Tom", "--tensorboard-logdir", board]
    result = fairseq.script("fairseq-train", *words)
    assert [record["epoch"] for record in result.logged("valid")] == [1, 2]
    assert "train: 103 stories, " in result.out and "valid: 37 stories, " in result.out
    names = ("checkpoint1.pt", "checkpoint2.pt", "checkpoint_best.pt", "checkpoint_last.pt")
    assert all((tmp_path / name).stat().st_size > 0 for name in names)
    assert not list(tmp_path.glob("*.tmp"))
    assert "| sample 0 @ 4 updates: Once upon a time|" in result.out
    assert "| sample 1 @ 4 updates: Tom|" in result.out
    assert all(float(record["valid_sample_tok_s"]) > 0 for record in result.logged("valid"))
    events = b"".join(path.read_bytes() for path in board.rglob("events.*"))
    assert b"sample/0" in events and b"sample/1" in events
    assert result.err == ""


def test_train_as_a_module(fairseq, stories, tmp_path):
    """``python -m fairseq_cli.train`` is ``__main__``; schedules follow validations there too."""
    words = fairseq.tiny(stories.bin, tmp_path, "--batch-size", 32, "--max-update", 4)
    words += "--lr-scheduler reduce_lr_on_validation --lr-threshold 0.99 --lr-shrink 0.5".split()
    words += ["--validate-interval-updates", 1, "--no-save", "--user-dir", fairseq.user_dir]
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_cli.train", *map(str, words)],
        capture_output=True,
        text=True,
        env=fairseq.env,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rates = re.findall(r'"lr": "([\d.e-]+)"', done.stdout)
    assert [float(rate) for rate in rates] == [0.005, 0.005, 0.0025, 0.00125]


# ------------------------------------------------------------------------------- evaluation


def test_validate_and_eval_lm_agree(fairseq, stories, checkpoint):
    """Both score every token of every story, ends included, and find the same loss."""
    validated = fairseq.script(
        *("fairseq-validate", stories.bin, "--path", checkpoint, "--valid-subset", "valid"),
        *("--max-tokens", 400, "--cpu", "--log-format", "json"),
    )
    scored = fairseq.script(
        "fairseq-eval-lm", stories.bin, "--path", checkpoint, *GENERATE, "--max-tokens", 300
    )
    tokens = stories.num_tokens("valid")
    assert f"valid: {NUM_VALID} stories, {tokens} tokens; left out as empty: 0" in validated.out
    assert f"Evaluated {tokens:,} tokens" in scored.out
    found = re.search(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", scored.out)
    loss, perplexity = found.groups()
    logged = validated.logged("valid")[-1]
    assert float(logged["valid_loss"]) == pytest.approx(float(loss), abs=1e-3)
    assert float(logged["valid_ppl"]) == pytest.approx(float(perplexity), abs=1e-2)
    assert 1 < float(perplexity) < 10  # it has learned something


def test_packed_rows_have_the_same_loss(fairseq, stories, checkpoint):
    words = ["--path", checkpoint, "--cpu", "--max-tokens", 300]
    subset = ["--valid-subset", "valid", "--log-format", "json"]
    validated = [
        fairseq.run("validate", stories.bin, *words, *subset, *pack).logged("valid")[-1]
        for pack in ([], ["--pack"])
    ]
    assert validated[0]["valid_loss"] == validated[1]["valid_loss"]
    scored = fairseq.run("eval_lm", stories.bin, *words, "--gen-subset", "valid", "--pack")
    assert f"Evaluated {stories.num_tokens('valid'):,} tokens" in scored.out
    loss = float(re.search(r"Loss \(base 2\): ([\d.]+)", scored.out)[1])
    assert loss == pytest.approx(float(validated[0]["valid_loss"]), abs=1e-3)


# ------------------------------------------------------------------------------- generation


@pytest.fixture(scope="module")
def generated(fairseq, stories, checkpoint):
    """``fairseq-generate`` with beam search, as a real script."""
    return fairseq.script(
        *("fairseq-generate", stories.bin, "--path", checkpoint, *GENERATE),
        *("--prompt-tokens", PROMPT, "--beam", 2, "--max-len-b", 12),
    )


def test_generate_continues_every_story(generated, stories):
    """No --task and no --bpe: the checkpoint and the data folder know them."""
    everyone = list(range(NUM_VALID))
    for kind in "STHDP":
        assert sorted(number for number, _ in generated.rows(kind)) == everyone
    prompts, rests = dict(continuations(generated, "S")), dict(continuations(generated, "T"))
    for number, pieces in enumerate(stories.pieces("valid")):
        known = min(PROMPT, len(pieces))
        assert prompts[number] == stories.tokenizer.decode(pieces[:known])
        assert rests[number] == stories.tokenizer.decode(pieces[known:])


def test_generate_counts_what_it_prints(generated):
    tokens = sum(len(text.split()) + 1 for _, text in continuations(generated, "H"))
    assert counts(generated) == (NUM_VALID, tokens)
    scores = {number: columns[0].split() for number, columns in generated.rows("P")}
    for number, text in continuations(generated, "H"):
        # every token has a score, the end as well
        assert len(scores[number]) == len(text.split()) + 1
    assert all(len(text.split()) <= 12 for _, text in continuations(generated, "H"))


@pytest.mark.parametrize(
    "options",
    [
        ["--task", "story_lm"],
        ["--batch-size", 3],  # batches of other lengths
        ["--bpe", "sentencepiece", "--sentencepiece-model", "{tokenizer}"],
        ["--path", "{checkpoint}:{checkpoint}"],  # an ensemble of twins is the model itself
    ],
    ids=["task", "batches", "bpe", "ensemble"],
)
def test_generate_the_same_another_way(options, generated, fairseq, stories, checkpoint):
    names = {"checkpoint": checkpoint, "tokenizer": stories.bin / "sentencepiece.bpe.model"}
    result = fairseq.run(
        *("generate", stories.bin, "--path", checkpoint, *GENERATE),
        *("--prompt-tokens", PROMPT, "--beam", 2, "--max-len-b", 12),
        *[str(option).format(**names) for option in options],
    )
    assert dict(continuations(result, "D")) == dict(continuations(generated, "D"))


def test_results_path(fairseq, stories, checkpoint, tmp_path):
    result = fairseq.run(
        *("generate", stories.bin, "--path", checkpoint, "--gen-subset", "test", "--cpu"),
        *("--max-len-b", 5, "--results-path", tmp_path),
    )
    written = (tmp_path / "generate-test.txt").read_text()
    assert len(re.findall(r"^H-\d+\t", written, re.MULTILINE)) == 13
    assert not result.rows("H")


def test_length_options(fairseq, stories, checkpoint):
    """Without a prompt a whole story is written; the reference is the whole story as well."""
    result = fairseq.run(
        *("generate", stories.bin, "--path", checkpoint, "--gen-subset", "test", "--cpu"),
        *("--min-len", 6, "--max-len-b", 9, "--prefix-size", 2, "--beam", 3, "--nbest", 3),
    )
    texts = continuations(result, "H")
    assert len(texts) == 3 * 13 and all(6 <= len(text.split()) <= 9 for _, text in texts)
    assert {text for _, text in continuations(result, "S")} == {""}
    for number, text in texts:
        assert text.split()[:2] == stories.pieces("test")[number][:2]


# ------------------------------------------------------------------------------ interactive

LINES = [
    "Once upon a time Lily found a red ball",
    "Tom",
    "",  # an empty line is an empty prompt: a whole story
    "Once upon a time",
    "Mia and Zoë saw a 漢字",  # with characters that the vocabulary lacks
]


def interactive(fairseq, stories, checkpoint, *options, lines=LINES, **kwargs):
    words = [stories.bin, "--path", checkpoint, "--cpu", *options]
    return fairseq.run("interactive", *words, stdin="".join(x + "\n" for x in lines), **kwargs)


@pytest.fixture(scope="module")
def answered(fairseq, stories, checkpoint):
    """``fairseq-interactive`` as a real script, one line at a time."""
    return fairseq.script(
        *("fairseq-interactive", stories.bin, "--path", checkpoint, "--cpu", "--beam", 3),
        *("--nbest", 2),
        stdin="".join(line + "\n" for line in LINES),
    )


def test_interactive_answers_in_order(answered):
    numbers = [number for number, _ in answered.rows("H")]
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # nbest 2
    scores = [float(columns[0]) for _, columns in answered.rows("H")]
    assert all(first >= second for first, second in zip(scores[::2], scores[1::2]))
    assert [text for _, text in continuations(answered, "S")][1:4] == [
        "▁Tom",
        "",
        "▁Once ▁upon ▁a ▁time",
    ]
    assert continuations(answered, "S")[4][1].count("<unk>") > 0
    story = continuations(answered, "D")[4][1]
    assert story.startswith("Once upon a time ")  # learned, for its prompt was empty
    assert not continuations(answered, "D")[0][1].startswith("Once")  # the prompt is not repeated


def test_interactive_in_batches_equals_one_by_one(answered, fairseq, stories, checkpoint):
    words = ["--beam", 3, "--nbest", 2, "--buffer-size", 10, "--batch-size", 3]
    together = interactive(fairseq, stories, checkpoint, *words)
    assert continuations(together, "D") == continuations(answered, "D")


def test_sampling_repeats_with_its_seed(fairseq, stories, checkpoint):
    words = "--sampling --sampling-topk 20 --beam 4 --nbest 4 --max-len-b 15 --seed".split()
    first, again, other = (
        continuations(interactive(fairseq, stories, checkpoint, *words, seed), "D")
        for seed in (7, 7, 8)
    )
    assert first == again != other
    assert len(set(first)) > len(LINES)  # the four of a prompt differ


def test_input_from_a_file(answered, fairseq, stories, checkpoint, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(line + "\n" for line in LINES), encoding="utf-8")
    words = ["--beam", 3, "--nbest", 2, "--input", prompts]
    result = interactive(fairseq, stories, checkpoint, *words, lines=[])
    assert continuations(result, "D") == continuations(answered, "D")
