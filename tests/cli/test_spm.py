"""`fairtale spm train` and `spm encode`: a vocabulary for fairseq, and text there and back."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import sentencepiece
from fairseq.data import Dictionary

from tests.cli.fairtale_command import ROOT, assert_user_error, fairtale

WORDS = [
    "".join(random.Random(number).choices("abcdefghijklmnop", k=2 + number % 6))
    for number in range(150)
]
SPECIAL = ["Where </s> is <pad> and <unk> or <s>?", "<0x41> <SEP>", "naïve 😀 \u3000wide"]


def corpus(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with text.txt, m.model, m.vocab and dict.txt."""
    folder = tmp_path_factory.mktemp("spm")
    # Marks are frequent here, so that a careless training would learn them as pieces.
    text = corpus(1500) + ["hello </s> and</s>x <pad><unk> <s> <0x41>"] * 200
    (folder / "text.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    done = fairtale(
        "spm", "train", "text.txt", "--model", "m", "--vocab-size", "400", "--symbols", "<SEP>",
        "--workers", "1", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bpe of 400 pieces from 1700 lines (all) of 1700" in done.stdout
    return folder


def encode(folder, lines, *options):
    data = lines if isinstance(lines, bytes) else "".join(line + "\n" for line in lines).encode()
    (folder / "in.txt").write_bytes(data)
    done = fairtale(
        "spm", "encode", "in.txt", "--model", "m.model", "--output", "out.txt", *options,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "out.txt").read_text(encoding="utf-8").split("\n")[:-1], done


def test_fairseq_loads_the_dictionary(model):
    dictionary = Dictionary.load(str(model / "dict.txt"))
    assert len(dictionary) == 400
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model / "m.model"))
    assert processor.get_piece_size() == 400
    pieces = {processor.id_to_piece(number) for number in range(400)}
    assert pieces == set(dictionary.symbols)
    assert "<SEP>" in pieces and "<0xFF>" in pieces
    vocabulary = (model / "m.vocab").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in vocabulary] == [
        processor.id_to_piece(number) for number in range(400)
    ]


def test_counts_are_those_of_the_training_text(model):
    encoded, _ = encode(model, (model / "text.txt").read_text(encoding="utf-8").splitlines())
    counts = {}
    for piece in " ".join(encoded).split():
        counts[piece] = counts.get(piece, 0) + 1
    with open(model / "dict.txt", encoding="utf-8") as stream:
        written = {piece: int(count) for piece, count in (line.rsplit(" ", 1) for line in stream)}
    assert {piece: count for piece, count in written.items() if count} == counts


def test_marks_in_a_text_stay_letters(model):
    encoded, _ = encode(model, SPECIAL)
    marks = {"<s>", "</s>", "<pad>", "<unk>", "<SEP>"}
    assert not marks & set(" ".join(encoded).split())
    ids = [
        Dictionary.load(str(model / "dict.txt")).encode_line(line, add_if_not_exist=False)
        for line in encoded
    ]
    assert all(line[:-1].min() > 3 for line in ids)  # nothing unknown, no mark before the end


@pytest.mark.parametrize("workers", [1, 3])
def test_there_and_back(model, workers):
    # Three tasks and more, so that several workers have several tasks.
    lines = corpus(25_000, seed=1) + ["", *SPECIAL[:2], "naïve 😀 wide", ""]
    encoded, done = encode(model, lines, "--workers", str(workers))
    assert len(encoded) == len(lines)
    assert encoded[-1] == encoded[-5] == ""
    assert f"{len(lines)} lines" in done.stderr and "2 empty lines" in done.stderr
    os.replace(model / "out.txt", model / "pieces.txt")
    done = fairtale(
        "spm", "encode", "pieces.txt", "--decode", "--model", "m.model", "--output", "back.txt",
        "--workers", str(workers), cwd=model,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (model / "back.txt").read_text(encoding="utf-8").split("\n")[:-1] == lines


def test_the_number_of_workers_changes_nothing(model):
    lines = corpus(12_000, seed=2)
    assert encode(model, lines, "--workers", "1")[0] == encode(model, lines, "--workers", "4")[0]


def test_order_is_kept_over_many_tasks(model):
    lines = corpus(5000, seed=3)
    expected, _ = encode(model, lines, "--workers", "1")
    code = (
        "import sys, fairtale\n"
        "from fairtale.cli import encode_files, main\n"
        "encode_files._TASK_BYTES = 500\n"
        "sys.exit(main.main('spm encode in.txt --model m.model --output out.txt --workers 3'"
        ".split()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=model,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (model / "out.txt").read_text(encoding="utf-8").split("\n")[:-1] == expected


def test_lines_end_at_line_feeds_only(model):
    encoded, _ = encode(model, b"one\rtwo\x0bthree\xe2\x80\xa8four\r\n\nfive")
    assert len(encoded) == 3 and encoded[1] == ""


def test_pipes(model):
    done = fairtale("spm", "encode", "-", "--model", "m.model", stdin="ab cd\n\nef\n", cwd=model)
    assert done.returncode == 0 and len(done.stdout.split("\n")) == 4
    back = fairtale("spm", "encode", "-", "--decode", "--model", "m.model", "--quiet",
                    stdin=done.stdout, cwd=model)  # fmt: skip
    assert back.stdout == "ab cd\n\nef\n" and back.stderr == ""


def test_unknown_letters_without_bytes_are_unk(tmp_path):
    (tmp_path / "in.txt").write_text("가나 다라\n나다 라가\n" * 50, encoding="utf-8")
    done = fairtale("spm", "train", "in.txt", "--model", "m", "--vocab-size", "12",
                    "--no-byte-fallback", "--character-coverage", "1", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    # All its letters are unknown, so SentencePiece would spell the mark and fairseq would end.
    encoded, done = encode(tmp_path, ["가 </s> 나"])
    assert encoded == ["▁가 ▁ <unk> ▁나"]
    assert "1 unknown" in done.stderr


def test_several_texts_into_a_folder(model):
    (model / "a.txt").write_text("ab\n")
    (model / "b.txt").write_text("cd\nef\n")
    done = fairtale("spm", "encode", "a.txt", "b.txt", "--model", "m.model", "--output-dir", "enc",
                    cwd=model)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((model / "enc" / "b.txt").read_text().splitlines()) == 2
    (model / "sub").mkdir(exist_ok=True)
    (model / "sub" / "a.txt").write_text("ab\n")
    assert_user_error(
        fairtale("spm", "encode", "a.txt", "sub/a.txt", "--model", "m.model", "--output-dir", "e",
                 cwd=model), "same name",
    )  # fmt: skip
    assert_user_error(
        fairtale("spm", "encode", "a.txt", "b.txt", "--model", "m.model", cwd=model), "--output-dir"
    )
    assert_user_error(
        fairtale("spm", "encode", "a.txt", "--model", "m.model", "--output-dir", ".", cwd=model),
        "would be replaced by its own output",
    )
    assert (model / "a.txt").read_text() == "ab\n"


def test_bad_text_and_models(model):
    (model / "bad.txt").write_bytes(b"fine\n" * 3 + b"caf\xe9\n")
    (model / "old.txt").write_text("kept")
    for options in (["--workers", "1"], ["--decode"]):
        done = fairtale("spm", "encode", "bad.txt", "--model", "m.model", "--output", "old.txt",
                        *options, cwd=model)  # fmt: skip
        assert_user_error(done, "bad.txt:4", "not UTF-8")
    assert (model / "old.txt").read_text() == "kept"
    assert not list(model.glob(".old.txt*"))
    done = fairtale("spm", "encode", "text.txt", "--model", "text.txt", cwd=model)
    assert_user_error(done, "--model text.txt", "not a SentencePiece model")
    done = fairtale("spm", "encode", "text.txt", "--model", "none.model", cwd=model)
    assert_user_error(done, "none.model", "no such file")
    done = fairtale("spm", "train", "bad.txt", "--model", "x", cwd=model)
    assert_user_error(done, "bad.txt:4", "not UTF-8")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--vocab-size", "50000"], ["--vocab-size 50000", "too small", "at most"]),
        (["--vocab-size", "100"], ["--vocab-size 100", "alone need", "raise it"]),
        (["--vocab-size", "400", "--character-coverage", "2"], ["--character-coverage 2.0"]),
        (["--vocab-size", "400", "--symbols", "</s>"], ["--symbols '</s>'"]),
        (["--vocab-size", "400", "--symbols", "A", "A"], ["once"]),
    ],
)
def test_bad_training_options(model, options, parts):
    done = fairtale("spm", "train", "text.txt", "--model", "other", *options, cwd=model)
    assert_user_error(done, *parts)
    assert not list(model.glob("other*"))


def test_text_without_words(tmp_path):
    (tmp_path / "in.txt").write_text("\n \n")
    assert_user_error(fairtale("spm", "train", "in.txt", "--model", "m", cwd=tmp_path), "no text")


def test_pieces_with_white_space_are_refused(tmp_path):
    # Without normalisation a no-break space becomes part of pieces, and fairseq splits there.
    (tmp_path / "in.txt").write_text("ab\u00a0cd ef\u00a0gh\n" * 50, encoding="utf-8")
    done = fairtale("spm", "train", "in.txt", "--model", "m", "--vocab-size", "277",
                    "--normalization", "identity", cwd=tmp_path)  # fmt: skip
    assert_user_error(done, "white space", "nmt_nfkc")
    assert not list(tmp_path.glob("m.*")) and not (tmp_path / "dict.txt").exists()


def test_long_lines_are_cut_and_long_words_skipped(tmp_path):
    lines = corpus(500)
    huge = [" ".join(lines), "x" * 5000 + " abc", *lines]
    (tmp_path / "in.txt").write_text("\n".join(huge))
    done = fairtale("spm", "train", "in.txt", "--model", "m", "--vocab-size", "350",
                    "--max-sentence-length", "300", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "skipped words over 300 bytes: 1" in done.stdout
    # The long line counts as much as the short ones together: no text was lost but that word.
    with open(tmp_path / "dict.txt", encoding="utf-8") as stream:
        counts = {piece: int(count) for piece, count in (line.rsplit(" ", 1) for line in stream)}
    encoded, _ = encode(tmp_path, [*lines, *lines, "abc"])
    assert sum(counts.values()) == len(" ".join(encoded).split())


def test_training_on_a_part_of_the_lines(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(["first part"] * 600))
    (tmp_path / "b.txt").write_text("\n".join(["second half"] * 600))
    done = fairtale("spm", "train", "a.txt", "b.txt", "--model", "m", "--vocab-size", "275",
                    "--max-lines", "100", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "from 100 lines (every 12th) of 1200" in done.stdout
    encoded, _ = encode(tmp_path, ["first part", "second half"])
    with open(tmp_path / "dict.txt", encoding="utf-8") as stream:
        counts = {piece: int(count) for piece, count in (line.rsplit(" ", 1) for line in stream)}
    # Fifty lines of each file.
    assert sum(counts.values()) == 50 * len(" ".join(encoded).split())
    second = encoded[1].split()
    for piece in set(second) - set(encoded[0].split()):
        assert counts[piece] == 50 * second.count(piece)


def test_a_killed_worker_is_an_error_and_not_a_wait(model, tmp_path):
    (tmp_path / "big.txt").write_text("\n".join(corpus(400_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "fairtale", "spm", "encode", "big.txt", "--model",
         model / "m.model", "--output", "out.txt", "--workers", "2"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    if not os.path.exists(children):
        process.kill()
        pytest.skip("finds the workers in /proc")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.txt*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    with open(children) as stream:
        os.kill(int(stream.read().split()[0]), signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert error.strip().splitlines()[-1].startswith("error: a worker process was killed")
    assert [path.name for path in tmp_path.iterdir()] == ["big.txt"]


@pytest.mark.parametrize("verb", ["dialogs", "spm train", "spm encode", "score-dialog"])
def test_verbs_of_texts_import_neither_torch_nor_fairseq(verb):
    code = (
        "import sys; from fairtale.cli.main import main\n"
        f"try: main({verb.split() + ['--help']})\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'fairseq') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
