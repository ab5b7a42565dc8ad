"""Batches have declared keys: the type checker finds a misspelt one, and no collater adds any."""

import typing
from pathlib import Path

import mypy.api
import numpy as np
import pytest
import torch
from fairseq.data import LanguagePairDataset

from fairtale.data.corpus.vocabulary import token_bytes
from fairtale.data.dialog.dataset import DialogPrefixDataset, DialogSample, PrefixSample
from fairtale.data.parallel.dataset import ScoredPairs
from fairtale.data.story.dataset import PromptDataset, PromptSample, StoryDataset, StorySample
from fairtale.interfaces import (
    Batch,
    DialogBatch,
    DialogSides,
    Packing,
    ParallelBatch,
    PrefixInput,
    RowInput,
)
from tests.dialog_helpers import batch_of, dialog_dataset, random_lines
from tests.helpers import random_rows, tiny_dictionary

ROOT = Path(__file__).resolve().parents[4]
STORY, DIALOG = "fairtale/data/story/dataset.py", "fairtale/data/dialog/dataset.py"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("mypy"))


@pytest.mark.parametrize(
    ("file", "misspelt"),
    [
        (
            STORY,
            [
                ('"nsentences": len', '"nsentence": len', 'Extra key "nsentence"'),
                ('["sample_index"] =', '["sample_indices"] =', 'no key "sample_indices"'),
                ('s["target"] for', 's["targets"] for', 'no key "targets"'),
            ],
        ),
        (
            DIALOG,
            [
                ('"response_mask":', '"reply_mask":', 'Extra key "reply_mask"'),
                ('"positions": torch.cat', '"position": torch.cat', 'Extra key "position"'),
                ('"longest": longest', '"length": longest', 'Extra key "length"'),
                ('["tokens"] for', '["token"] for', 'no key "token"'),
            ],
        ),
    ],
)
def test_a_misspelt_key_is_a_type_error(tmp_path, cache, file, misspelt):
    """mypy reads a changed copy in the place of the file; torch and fairseq are left unread."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for right, wrong, _ in misspelt:
        assert right in text
        text = text.replace(right, wrong)
    changed = tmp_path / "changed.py"
    changed.write_text(text, encoding="utf-8")
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports", "skip"]
    options += ["--cache-dir", cache, "--shadow-file", str(ROOT / file), str(changed)]
    files = [str(ROOT / name) for name in ("fairtale/interfaces.py", file)]
    found = mypy.api.run([*options, *files])[0]
    for _, _, error in misspelt:
        assert error in found, found


def keys(declared):
    return set(typing.get_type_hints(declared, localns={"Tensor": torch.Tensor}))


def assert_declared(batch, declared, net_input=None):
    assert batch and set(batch) <= keys(declared)
    if net_input is not None:
        assert set(batch["net_input"]) <= keys(net_input)
        assert set(batch["net_input"].get("packing", ())) <= keys(Packing)
        assert set(batch["net_input"].get("sides", ())) <= keys(DialogSides)


@pytest.mark.parametrize("pack", [False, True])
def test_keys_of_stories_are_declared(pack):
    dictionary, rows = tiny_dictionary(), random_rows([3, 5, 2])
    dataset = StoryDataset(
        rows, [len(row) for row in rows], dictionary, 9, token_bytes(dictionary), pack=pack
    )
    assert set(dataset[0]) == keys(StorySample)
    assert_declared(batch_of(dataset), Batch, RowInput)
    prompts = PromptDataset(rows, dictionary)
    assert set(prompts[0]) == keys(PromptSample)
    assert_declared(batch_of(prompts), Batch, PrefixInput)


def test_keys_of_dialogs_are_declared():
    dataset = dialog_dataset(random_lines(9))
    assert set(dataset[0]) == keys(DialogSample) - {"context"}  # kept only if it is asked for
    assert_declared(batch_of(dataset), DialogBatch, RowInput)
    prefixes = [np.array([5, 6, dataset.sep])]
    asked = DialogPrefixDataset(prefixes, dataset.dictionary, dataset.ctx, dataset.limits)
    assert set(asked[0]) == keys(PrefixSample)
    assert_declared(batch_of(asked), Batch, PrefixInput)


def test_keys_of_pairs_are_declared():
    dictionary, rows = tiny_dictionary(), random_rows([3, 5, 2])
    sizes = np.array([len(row) for row in rows])
    pairs = LanguagePairDataset(rows, sizes, dictionary, rows, sizes, dictionary)
    assert_declared(batch_of(ScoredPairs(pairs, 2)), ParallelBatch)
