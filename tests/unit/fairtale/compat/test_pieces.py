"""Pieces are joined once."""

from argparse import Namespace

import pytest

from fairtale.compat.pieces import refuse_joining_twice
from fairtale.errors import UserError
from user_dir.tasks.story_lm import StoryLMTask
from user_dir.tasks.wmt16_translation import WMT16TranslationTask


def options(**values):
    return Namespace(**{"beam": 5, "post_process": None, "bpe": None, "path": None, **values})


def test_of_an_option():
    refuse_joining_twice(options(bpe="sentencepiece"))
    refuse_joining_twice(options(post_process="sentencepiece"))
    with pytest.raises(UserError, match="--remove-bpe @@ : --bpe sentencepiece joins"):
        refuse_joining_twice(options(bpe="sentencepiece", post_process="@@ "))
    # fairseq-eval-lm joins no text
    refuse_joining_twice(Namespace(bpe="sentencepiece", post_process="@@ "))


@pytest.mark.parametrize(
    "task, name",
    [
        (StoryLMTask, "sentencepiece.bpe.model"),
        (WMT16TranslationTask, "sentencepiece.bpe.model"),
        (WMT16TranslationTask, "sentencepiece.bpe.en.model"),
    ],
)
def test_beside_the_data(task, name, tmp_path):
    asked = options(data=str(tmp_path), source_lang="en", post_process="sentencepiece")
    task.check_command(asked)  # there is no tokenizer yet
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="--remove-bpe sentencepiece: the tokenizer beside"):
        task.check_command(asked)
    asked.post_process = None
    task.check_command(asked)
