"""Selection of heads and units."""

import pytest
import torch

from fairtale.errors import UserError
from fairtale.pruning import selection

SCORES = {
    "encoder.0": torch.tensor([0.1, 0.9, 0.5]),
    "encoder.1": torch.tensor([0.5, 0.2, 0.8]),
}


@pytest.mark.parametrize(
    "count, expected",
    [
        (0, ([], [])),
        (1, ([1], [])),
        (3, ([1, 2], [2])),  # the first of two equal scores
        (4, ([1, 2], [0, 2])),
        (6, ([0, 1, 2], [0, 1, 2])),
    ],
)
def test_exactly_as_many_stay_as_are_asked_for(count, expected):
    assert tuple(selection.keep_best(SCORES, count).values()) == expected


def test_nothing_stays_of_nothing():
    assert selection.keep_best({}, 0) == {}
    assert selection.keep_best({"encoder.0": torch.zeros(0)}, 0) == {"encoder.0": []}


@pytest.mark.parametrize("count", [-1, 7])
def test_a_budget_that_cannot_be_kept(count):
    with pytest.raises(UserError, match=f"--heads {count}: must be 0 to 6"):
        selection.keep_best(SCORES, count)


def test_threshold():
    assert selection.keep_above(SCORES, 0.5) == {"encoder.0": [1, 2], "encoder.1": [0, 2]}


def test_each_layer_keeps_its_share_and_one_unit_at_least():
    scores = {"a": torch.arange(5.0), "b": torch.tensor([3.0])}
    assert selection.keep_share(scores, 0.5) == {"a": [2, 3, 4], "b": [0]}
    assert selection.keep_share(scores, 0.001) == {"a": [4], "b": [0]}
    assert selection.keep_share(scores, 1.0) == {"a": [0, 1, 2, 3, 4], "b": [0]}
    # 0.07 * 100 is 7.000000000000001
    assert len(selection.keep_share({"a": torch.arange(100.0)}, 0.07)["a"]) == 7


def test_a_random_choice_is_repeated_by_its_seed():
    counts = {"encoder.0": 8, "cross.1": 8}

    def choice(seed):
        return selection.keep_best(selection.random_scores(counts, seed), 8)

    assert choice(1) == choice(1)
    assert len({str(choice(seed)) for seed in range(5)}) > 1


def test_layers_are_normalised_by_their_norm():
    scores = selection.normalize_layers({"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)})
    torch.testing.assert_close(scores["a"], torch.tensor([0.6, 0.8]))
    assert scores["b"].tolist() == [0, 0]


def test_types():
    assert selection.parse_types("cross, encoder") == ["encoder", "cross"]
    for wrong in ("", "encoder,heads"):
        with pytest.raises(UserError, match="--types"):
            selection.parse_types(wrong)


def test_layers():
    num_layers = {"encoder": 3, "decoder": 2}
    gone = selection.parse_layers("encoder.2,decoder.0, encoder.0", num_layers)
    assert gone == {"encoder": [0, 2], "decoder": [0]}
    assert selection.parse_layers("", num_layers) == {"encoder": [], "decoder": []}
    for wrong in ("encoder.3", "encoder", "cross.0", "decoder.-1", "decoder.0,decoder.1"):
        with pytest.raises(UserError, match="--drop-layers"):
            selection.parse_layers(wrong, num_layers)
