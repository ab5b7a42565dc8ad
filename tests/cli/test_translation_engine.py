"""The engine of the service translates as fairseq-interactive does."""

import pytest

from fairtale.serving.translation_engine import TranslationEngine
from tests.cli.fairtale_command import fairtale
from tests.engine_answers import submit
from tests.translation_helpers import ENGLISH, write_checkpoint, write_data

LINES = [
    *ENGLISH,
    "the dog ran",
    "a cat",
    "“Yes”, it’s a — dog!",
    "no  no\tno",
    "a dog said “no”: yes,",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("arch", "pruned", "beam", "lenpen"),
    [
        ("transformer", False, 5, 1.0),
        pytest.param("transformer_hcg", True, 4, 0.6, marks=pytest.mark.slow),
    ],
)
def test_as_fairseq_interactive(fairseq, data, arch, pruned, beam, lenpen):
    """All lines in one batch, beside fairseq's batches of one sentence."""
    path = write_checkpoint(data, arch, updates=30)
    if pruned:
        smaller = data / "smaller.pt"
        done = fairtale("prune", path, "--heads", 9, "--by", "random", "--output", smaller)
        assert done.returncode == 0, done.stderr
        path = str(smaller)
    words = ["--beam", beam, "--lenpen", lenpen, "--max-len-a", 1.5, "--max-len-b", 10]
    stdin = "\n".join(LINES) + "\n"
    done = fairseq.run("interactive", data, "--path", path, "--cpu", *words, stdin=stdin)
    expected = [text[-1] for _, text in done.rows("D")]
    tokens = [len(text[-1].split()) for _, text in done.rows("H")]
    assert len(expected) == len(LINES) and len(set(expected)) > 3
    engine = TranslationEngine(path, cpu=True, beam=beam, lenpen=lenpen)
    answers = [submit(engine, line) for line in LINES]
    assert [answer.wait().text for answer in answers] == expected
    ends = [answer.reason == "stop" for answer in answers]
    assert [a.num_tokens - end for a, end in zip(answers, ends)] == tokens
    engine.close(0)
