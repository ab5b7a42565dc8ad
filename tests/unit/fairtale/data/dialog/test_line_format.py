"""Marks, turns, segments and positions of the dialog line."""

import numpy as np
import pytest

from fairtale.data.dialog.line_format import CTX, SEP, describe_prefix, escape_marks, join_turns
from fairtale.errors import UserError
from tests.dialog_helpers import batch_of, dialog_dataset, dialog_dictionary, encode

C, S = 90, 91  # ids of the marks

# line -> (segments, positions) of "<s> line-without-the-end", written by hand
TABLE = {
    "w1 <SEP> w2": ([2, 2, 2, 1], [0, 1, 2, 0]),
    "w1 w2 <SEP> w3 w4": ([2, 2, 2, 2, 1, 1], [0, 1, 2, 3, 0, 1]),
    "w1 <CTX> w2 <SEP> w3": ([3, 3, 3, 2, 2, 1], [0, 1, 2, 0, 1, 0]),
    "w1 w2 <CTX> w3 <CTX> w4 w5 <SEP> w6": (
        [3, 3, 3, 3, 3, 3, 2, 2, 2, 1],
        [0, 1, 2, 3, 0, 1, 0, 1, 2, 0],
    ),
    "w1 <CTX> w2 <CTX> w3 <CTX> w4 <SEP> w5 w6 w7": (
        [3, 3, 3, 3, 3, 3, 3, 2, 2, 1, 1, 1],
        [0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1, 2],
    ),
}


@pytest.mark.parametrize("line", TABLE)
def test_segments_and_positions_equal_the_table(line):
    item = dialog_dataset([line])[0]
    segments, positions = TABLE[line]
    assert item["segments"].tolist() == segments
    assert item["positions"].tolist() == positions
    dictionary = dialog_dictionary()
    whole = [dictionary.bos(), *encode(dictionary, line).tolist()]
    assert item["tokens"].tolist() == whole


def test_letters_that_spell_a_mark_stay_text():
    assert escape_marks(["a", SEP, CTX]) == ["a", *"<SEP>", *"<CTX>"]
    assert join_turns([["a"], [SEP]]) == ["a", CTX, *"<SEP>", SEP]


def test_a_dialog_needs_a_query():
    for turns in ([], [["a"], []]):
        with pytest.raises(UserError, match="last turn is empty"):
            join_turns(turns)
    assert join_turns([[], ["a"]]) == ["a", SEP]  # an empty context turn is none


def test_positions_of_a_cut_query_start_at_zero():
    segments, positions = describe_prefix(np.array([14, 15, S]), C)
    assert segments.tolist() == [2, 2, 2, 2]
    assert positions.tolist() == [0, 1, 2, 3]


def test_a_batch_predicts_what_follows():
    lines = ["w1 <CTX> w2 <SEP> w3", "w4 <SEP> w5 w6"]
    dictionary = dialog_dictionary()
    batch = batch_of(dialog_dataset(lines, dictionary))
    targets = [encode(dictionary, line).tolist() for line in lines]
    assert batch["target"][0].tolist() == targets[0] + targets[1]
    # the response and its end, predicted from <SEP> on
    chosen = batch["target"][0][batch["response_mask"][0]].tolist()
    words = [dictionary.index(w) for w in ("w3", "</s>", "w5", "w6", "</s>")]
    assert chosen == words
    assert batch["response_ntokens"] == 5
    assert batch["ntokens"] == len(targets[0]) + len(targets[1])
