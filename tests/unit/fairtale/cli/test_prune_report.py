"""Text and files of `fairtale prune-report`."""

from argparse import Namespace

import pytest
import torch

from fairtale.cli.prune_report import _figure_path, _plain_text
from fairtale.errors import UserError
from tests.helpers import tiny_dictionary
from user_dir.tasks.wmt16_translation import WMT16TranslationConfig, WMT16TranslationTask

NONE = {"remove_bpe": None, "tokenizer": None}


def test_the_task_makes_text_where_it_can_and_what_is_unknown_matches_nothing():
    dictionary = tiny_dictionary()
    cfg = WMT16TranslationConfig(data="nowhere", source_lang="en", target_lang="ru")
    task = WMT16TranslationTask(cfg, dictionary, dictionary)
    tokens = torch.tensor([dictionary.index("w1"), dictionary.unk(), 2])
    assert _plain_text(Namespace(**NONE), task)(tokens, "UNKNOWNHYP") == "w1 UNKNOWNHYP"


def test_pieces_are_joined_for_other_tasks():
    dictionary = tiny_dictionary()
    tokens = [dictionary.add_symbol(symbol) for symbol in ("▁a", "b", "▁c")]
    task = Namespace(target_dictionary=dictionary)
    text = _plain_text(Namespace(**{**NONE, "remove_bpe": "sentencepiece"}), task)
    assert text(torch.tensor([*tokens, dictionary.unk(), 2]), "▁X") == "ab c X"


@pytest.mark.parametrize(
    "out, figure, message",
    [
        ("rep.png", None, "--out rep.png: the figure would go there too; .* say --figure"),
        ("rep.md", "./rep.md", "--out rep.md: the figure would go there too"),
        ("full.pt", None, "--out full.pt: would replace a file that is read"),
        ("rep.md", "refs.ru", "--figure refs.ru: would replace a file that is read"),
    ],
)
def test_no_file_replaces_another(out, figure, message):
    args = Namespace(out=out, figure=figure, ref="refs.ru")
    with pytest.raises(UserError, match=message):
        _figure_path(args, ["full.pt", "half.pt"])


def test_the_figure_is_beside_the_report():
    args = Namespace(out="out/rep.md", figure=None, ref=None)
    assert _figure_path(args, ["full.pt"]) == "out/rep.png"
