"""``fairtale chat`` as people type it: a tiny model, and what comes through a pipe."""

import pytest

from tests.cli.fairtale_command import (
    WORDS,
    assert_user_error,
    dialogs_of_words,
    fairtale,
)


@pytest.fixture(scope="module")
def model(fairseq, tmp_path_factory):
    """A checkpoint that has learned next to nothing, of words without a tokenizer."""
    return dialogs_of_words(fairseq, tmp_path_factory.mktemp("chat"))


def chat(model, *options, stdin="hello\nhow are you\n"):
    """Return the lines that the model writes, and those on stderr."""
    done = fairtale(
        "chat",
        model,
        "--cpu",
        "--seed",
        "1",
        *options,
        stdin=stdin.encode(errors="surrogateescape"),
    )
    out, err = done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    assert done.returncode == 0 and "Traceback" not in "".join(err), err
    assert out.pop() == ""  # at the end of the input
    return out, err


def test_what_is_not_utf8_is_asked_again(model):
    replies, _ = chat(model)
    assert len(replies) == 2
    assert all(set(reply.split()) <= {*WORDS, "<unk>"} for reply in replies)
    again, errors = chat(model, stdin="hello\nh\udcff\udcfe\n\udced\udca0\udcbd\nhow are you\n")
    assert again == replies  # the history is cleared, and the seed repeats the replies
    assert errors[-2:] == [f"error: input line {n} is not valid UTF-8" for n in (2, 3)]


def test_steered_and_kept_from_repeating_the_history(model):
    words = model.parent / "colours"
    words.write_text("blue\n")
    options = ["--min-len", "3", "--max-len-b", "9"]
    steered, _ = chat(model, *options, "--steer-words", words, "--steer-weight", "50")
    assert all("blue" in reply.split() for reply in steered)
    blocked, _ = chat(model, *options, "--block-context-ngram", "1")
    assert blocked[0] and not {"hello"} & set(blocked[0].split())
    history = {"hello", *blocked[0].split(), "how", "are", "you"}
    assert blocked[1] and not history & set(blocked[1].split())


def test_commands_that_there_are_not(model):
    replies, _ = chat(model)
    again, errors = chat(model, stdin="hello\n/reset\nhow are you\n")
    assert again == replies and errors[-1:] == [
        "error: /reset: no such command; there are /new and /quit"
    ]


def test_mistakes_are_one_line(model):
    done = fairtale("chat", model, "--max-len-b", "24", "--cpu", stdin="hello\n")
    assert_user_error(done, "--max-len-b 24: the model was trained on replies of at most 23 tokens")
    words = ["--sampling-topk", "5", "--sampling-topp", "0.5"]
    done = fairtale("chat", model, *words, "--cpu", stdin="hello\n")
    assert_user_error(done, "--sampling-topk 5 and --sampling-topp 0.5: give one of them")
    done = fairtale("chat", model, "--topk=5", stdin="hello\n")
    assert_user_error(done, "error: --topk is now called --sampling-topk")
    assert len(done.stderr.splitlines()) == 1
