"""Dialogs through fairseq's own commands: trained, answered, re-ranked, steered."""

import random
import shutil

import pytest
import sentencepiece
from fairseq.data import Dictionary

SHAPE = (
    "--decoder-layers 2 --decoder-embed-dim 64 --decoder-ffn-embed-dim 128 "
    "--decoder-attention-heads 2"
).split()
TRAINING = (
    "--optimizer adam --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 30 --dropout 0 "
    "--max-tokens 1500 --max-update 300 --validate-interval 25 "
    "--no-epoch-checkpoints --log-format json --log-interval 1 "
    "--data-buffer-size 0 --num-workers 0 --cpu"
).split()
COLOURS = ["red", "green", "blue", "white"]
SIZES = {"train": 400, "valid": 21, "test": 13}


def make_dialogs(count, seed):
    """Turns of dialogs in which the reply repeats the colour of the question."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        colour = draw.choice(COLOURS)
        context = ["hello", "i am " + draw.choice(["tom", "ben"])][: draw.randint(0, 2)]
        rows.append([*context, f"is it {colour}", f"yes it is {colour}"])
    return rows


class Dialogs:
    """Binarised dialogs, and their turns."""

    def __init__(self, folder, turns):
        self.bin = folder / "bin"
        self.turns = turns


@pytest.fixture(scope="module")
def dialogs(fairseq, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogs")
    turns = {split: make_dialogs(size, split) for split, size in SIZES.items()}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(turn for row in turns["train"] for turn in row),
        model_prefix=str(folder / "spm"),
        model_type="bpe",
        vocab_size=80,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "spm.model"))
    dictionary = Dictionary()
    for symbol in [*map(pieces.id_to_piece, range(3, len(pieces))), "<CTX>", "<SEP>"]:
        dictionary.add_symbol(symbol)
    dictionary.save(str(folder / "dict.txt"))
    for split, rows in turns.items():
        lines = []
        for *prefix, reply in ([" ".join(pieces.encode(t, out_type=str)) for t in r] for r in rows):
            lines.append(" <CTX> ".join(prefix) + f" <SEP> {reply}\n")
        (folder / split).write_text("".join(lines), encoding="utf-8")
    words = [x for split in SIZES for x in (f"--{split}pref", folder / split)]
    words += ["--srcdict", folder / "dict.txt", "--destdir", folder / "bin", "--workers", 1]
    fairseq.run("preprocess", "--only-source", *words)
    shutil.copy(folder / "spm.model", folder / "bin" / "sentencepiece.bpe.model")
    return Dialogs(folder, turns)


@pytest.fixture(scope="module")
def trained(fairseq, dialogs, tmp_path_factory):
    """Checkpoints of a UniLM, a reverse and a mask-predict model, and their logs."""
    folder = tmp_path_factory.mktemp("trained")
    lm = [dialogs.bin, "--task", "dialog_lm", "--arch", "unilm_seq2seq_tiny", *SHAPE, *TRAINING]
    lm += ["--criterion", "label_smoothed_kl", "--seq2seq-prob", 1]
    nat = [dialogs.bin, "--task", "dialog_nat", "--arch", "mask_predict_tiny", *SHAPE, *TRAINING]
    nat += ["--criterion", "label_smoothed_kl"]
    kinds = {"unilm": lm, "reverse": [*lm, "--reverse"], "nat": nat}
    commands = [
        fairseq.prepare("train", *words, "--save-dir", folder / kind)
        for kind, words in kinds.items()
    ]
    results = dict(zip(kinds, fairseq.together(*commands)))
    for result in results.values():
        assert result.status == 0, result.out[-2000:] + result.err[-2000:]
    return {kind: (folder / kind / "checkpoint_best.pt", results[kind]) for kind in kinds}


def test_validation_reads_the_prefix_both_ways(trained):
    log = trained["unilm"][1].logged("valid")[-1]
    assert log["valid_seq2seq_nll_loss"] == log["valid_nll_loss"]  # as it will decode
    assert float(log["valid_causal_nll_loss"]) > 0


@pytest.mark.parametrize("kind", ["unilm", "nat"])
def test_replies_are_text(kind, fairseq, dialogs, trained):
    words = [dialogs.bin, "--path", trained[kind][0], "--cpu"]
    stdin = "hello\tis it red\nis it green\n"
    result = fairseq.run("interactive", *words, stdin=stdin)
    assert [number for number, _ in result.rows("D")] == [0, 1]
    typed = [columns[-1] for _, columns in result.rows("D")]

    result = fairseq.run("generate", *words, "--gen-subset", "test", "--max-tokens", 300)
    replies = {number: columns[-1] for number, columns in result.rows("D")}
    assert sorted(replies) == list(range(SIZES["test"]))
    assert typed == ["yes it is red", "yes it is green"]
    assert replies == {i: row[-1] for i, row in enumerate(dialogs.turns["test"])}


@pytest.mark.parametrize("option", ["--sampling", "--no-repeat-ngram-size 2"])
def test_options_that_have_no_effect_in_mask_predict(option, fairseq, dialogs, trained):
    words = [dialogs.bin, "--path", trained["nat"][0], "--cpu", *option.split()]
    result = fairseq.run("interactive", *words, stdin="is it red\n", check=False)
    assert result.status > 0 and result.error.startswith(f"error: {option.split()[0]}")


def test_training_goes_on_only_as_it_began(fairseq, dialogs, trained, tmp_path):
    shutil.copy(trained["unilm"][0], tmp_path / "checkpoint_last.pt")
    words = [dialogs.bin, "--task", "dialog_lm", "--arch", "unilm_seq2seq_tiny", *SHAPE, *TRAINING]
    words += ["--criterion", "label_smoothed_kl", "--save-dir", tmp_path]
    result = fairseq.run("train", *words, check=False)
    assert result.status > 0
    assert "began with --seq2seq-prob 1.0, and would continue with 0.25" in result.error


def test_short_replies_need_no_short_prefixes(fairseq, dialogs, tmp_path):
    """--max-target-positions is an option of the task and of the model."""
    words = [dialogs.bin, "--task", "dialog_lm", "--arch", "gpt_tiny", *SHAPE, *TRAINING]
    words += ["--criterion", "label_smoothed_kl", "--max-target-positions", 5, "--max-update", 2]
    fairseq.run("train", *words, "--save-dir", tmp_path)
    words = [dialogs.bin, "--path", tmp_path / "checkpoint_last.pt", "--cpu", "--min-len", 4]
    result = fairseq.run("interactive", *words, stdin="is it red\n")
    assert len(result.rows("P")[0][1][0].split()) == 5


def test_re_ranking(fairseq, dialogs, trained):
    words = [dialogs.bin, "--path", trained["unilm"][0], "--cpu", "--beam", 3, "--nbest", 3]
    words += ["--gen-subset", "test"]
    reverse = ["--mmi-path", trained["reverse"][0], "--mmi-weight"]
    plain, same, other = (
        fairseq.run("generate", *words, *more) for more in ([], [*reverse, 0], [*reverse, 1])
    )
    assert same.rows("D") == plain.rows("D")
    parts = other.rows("M")
    assert len(parts) == 3 * SIZES["test"]
    for number in range(SIZES["test"]):  # ordered by log P(query | reply), the last column
        scores = [float(columns[-1]) for n, columns in parts if n == number]
        assert scores == sorted(scores, reverse=True)

    lines = "hello\ti am tom\tis it red\nhello\tis it green\nis it blue\n"
    words = [*words[:-2], *reverse, 1]
    typed = fairseq.run("interactive", *words, stdin=lines)
    assert [n for n, _ in typed.rows("M")] == [n for n, _ in typed.rows("H")]
    more = ["--buffer-size", 3, "--batch-size", 2]
    buffered = fairseq.run("interactive", *words, *more, stdin=lines)
    assert buffered.rows("S") == typed.rows("S")
    assert [n for n, _ in buffered.rows("M")] != [n for n, _ in typed.rows("M")]
    assert sorted(buffered.rows("M")) == sorted(typed.rows("M"))


def test_steering(fairseq, dialogs, trained, tmp_path):
    (tmp_path / "words").write_text("blue\n")
    words = [dialogs.bin, "--path", trained["unilm"][0], "--cpu"]
    words += ["--steer-words", tmp_path / "words", "--steer-weight", 20]
    result = fairseq.run("interactive", *words, stdin="is it red\n")
    assert "blue" in result.rows("D")[0][1][-1]


def test_a_reverse_model_of_other_data(fairseq, dialogs, trained, checkpoint):
    words = [dialogs.bin, "--path", trained["unilm"][0], "--cpu", "--nbest", 2, "--beam", 2]
    for path, told in [(trained["unilm"][0], "not a reverse model"), (checkpoint, "--mmi-path")]:
        result = fairseq.run("interactive", *words, "--mmi-path", path, check=False,
                             stdin="is it red\n")  # fmt: skip
        assert result.status > 0 and told in result.error and result.error.startswith("error: ")
