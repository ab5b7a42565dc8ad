"""Data folders of stories, and the task that reads them."""

from tests.helpers import write_split
from user_dir.tasks.story_lm import StoryLMConfig, StoryLMTask


def data_folder(path, dictionary, **splits):
    """Write a data folder as fairseq-preprocess does, with splits of rows of tokens."""
    path.mkdir(exist_ok=True)
    dictionary.save(str(path / "dict.txt"))
    for split, rows in splits.items():
        write_split(path, split, rows, len(dictionary))
    return path


def setup(*folders, **options):
    """Set up ``story_lm`` on data folders."""
    data = ":".join(map(str, folders))
    options.setdefault("tensorboard_logdir", None)
    return StoryLMTask.setup_task(StoryLMConfig(data=data, **options))
