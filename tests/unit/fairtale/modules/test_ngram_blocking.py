"""n-gram blocking, compared with a simple search, and the fault of fairseq."""

import itertools
import math

import pytest
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock

import user_dir  # noqa: F401  (cures fairseq)
from fairtale.modules.ngram_blocking import block_repeated_ngrams

END, PAD = 2, 1


def forbidden(tokens, size):
    """Return every next token that would repeat an n-gram of this list."""
    known = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
    tail = tuple(tokens[len(tokens) - size + 1 :]) if size > 1 else ()
    return {ngram[-1] for ngram in known if ngram[:-1] == tail}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 9, 30])
def test_equals_brute_force(size, length):
    generator = torch.Generator().manual_seed(100 * size + length)
    tokens = torch.randint(4, 8, (16, length), generator=generator)
    lprobs = torch.randn(16, 12, generator=generator)
    expected = lprobs.clone()
    for row, words in enumerate(tokens.tolist()):
        for token in forbidden(words, size):
            expected[row, token] = -math.inf
    assert torch.equal(block_repeated_ngrams(tokens, lprobs.clone(), size), expected)
    if length > size + 4:
        assert expected.isinf().any()


def test_rows_of_the_same_words_are_blocked_alike():
    tokens = torch.tensor([[5, 6, 5], [6, 5, 6]])
    blocked = block_repeated_ngrams(tokens, torch.zeros(2, 8), 2).isinf()
    assert blocked.nonzero().tolist() == [[0, 6], [1, 5]]


def test_a_token_that_is_impossible_already_stays_so():
    lprobs = torch.zeros(1, 8)
    lprobs[0, 6] = -math.inf
    blocked = block_repeated_ngrams(torch.tensor([[5, 6, 5]]), lprobs, 2)
    assert blocked[0, 6] == -math.inf and not blocked.isnan().any()


def test_the_last_choice_is_never_taken_away():
    # a forced token (--prefix-size) is the only possible one, repeated or not
    forced = torch.full((2, 8), -math.inf)
    forced[0, 6] = forced[1, 7] = -1.5
    blocked = block_repeated_ngrams(torch.tensor([[5, 6, 5]] * 2), forced.clone(), 2)
    assert torch.equal(blocked, forced)


def generator_state(steps, words, room=12):
    """Return the generator's buffer after ``steps`` words: BOS token, words, padding."""
    tokens = torch.full((1, room), PAD)
    tokens[0, 0] = END
    tokens[0, 1 : steps + 1] = torch.tensor(words[:steps])
    return tokens


def test_with_single_words_the_end_stays_possible():
    tokens = generator_state(4, [4, 5, 6, 7])
    blocked = NGramRepeatBlock(1)(tokens, torch.zeros(1, 10), 1, 1, step=4).isinf()
    assert blocked.nonzero()[:, 1].tolist() == [4, 5, 6, 7]


def test_fairseq_alone_blocks_nothing():
    """The fault: fairseq compares the padding at the end of its buffer."""
    words = [4, 5, 6, 4, 5, 6, 4, 5]
    block = NGramRepeatBlock(3, use_extension=False)
    ours, theirs = [], []
    for step in range(len(words) + 1):
        tokens = generator_state(step, words)
        theirs.append(block._no_repeat_ngram(tokens, torch.zeros(1, 10), 1, 1, step).isinf())
        ours.append(block(tokens, torch.zeros(1, 10), 1, 1, step).isinf())
    assert not torch.cat(theirs).any()
    expected = [forbidden(words[:step], 3) for step in range(len(words) + 1)]
    assert [set(x[0].nonzero()[:, 0].tolist()) for x in ours] == expected
    assert sum(map(len, expected)) == 4


def test_every_short_sequence_exhaustively():
    rows = torch.tensor(list(itertools.product([4, 5], repeat=5)))
    blocked = block_repeated_ngrams(rows, torch.zeros(len(rows), 6), 3).isinf()
    for words, row in zip(rows.tolist(), blocked):
        assert set(row.nonzero()[:, 0].tolist()) == forbidden(words, 3)


@pytest.mark.gpu
def test_gpu_equals_cpu():
    tokens, lprobs = torch.randint(4, 8, (64, 40)), torch.randn(64, 12)
    expected = block_repeated_ngrams(tokens, lprobs.clone(), 2)
    found = block_repeated_ngrams(tokens.cuda(), lprobs.cuda(), 2)
    assert torch.equal(found.cpu(), expected)
