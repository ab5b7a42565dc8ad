"""A data folder of translations, and the task that reads it."""

from fairtale.data.parallel.text import LanguageText, TextSettings, write_settings
from tests.helpers import dictionary_of, train_tokenizer, write_split
from user_dir.tasks.wmt16_translation import WMT16TranslationConfig, WMT16TranslationTask

ENGLISH = ["the cat ran home.", 'he said: "yes, it\'s a dog".', "a cat and the dog ran", "no"]
RUSSIAN = ["кот убежал домой.", 'он сказал: "да, это собака".', "кот и собака бежали", "нет"]


def setup(folder, **options):
    """Set up ``wmt16_translation`` on a data folder."""
    options.setdefault("tensorboard_logdir", None)
    options.setdefault("train_subset", "train")
    options.setdefault("dataset_impl", None)
    options.setdefault("required_seq_len_multiple", 1)
    return WMT16TranslationTask.setup_task(WMT16TranslationConfig(data=str(folder), **options))


def write_data(folder):
    """Write a data folder as prepare.sh leaves it, and return it."""
    write_settings(folder, TextSettings())
    tools = [LanguageText(lang, TextSettings()) for lang in ("en", "ru")]
    sides = [[tool.tokenize(t) for t in texts] for tool, texts in zip(tools, (ENGLISH, RUSSIAN))]
    processor = train_tokenizer(folder / "sentencepiece.bpe.model", sides[0] + sides[1], 330)
    dictionary = dictionary_of(processor)
    for lang, lines in zip(("en", "ru"), sides):
        dictionary.save(str(folder / f"dict.{lang}.txt"))
        rows = [
            dictionary.encode_line(" ".join(processor.encode(line, out_type=str)), append_eos=False)
            for line in lines
        ]
        for split, part in (("train", rows), ("valid", rows), ("test", rows[:2])):
            write_split(folder, f"{split}.en-ru.{lang}", part, len(dictionary))
    return folder


def rows_of(task, split):
    """Load a split, and return its dataset and all of it as one batch."""
    task.load_dataset(split)
    dataset = task.dataset(split)
    return dataset, dataset.collater([dataset[i] for i in range(len(dataset))])
