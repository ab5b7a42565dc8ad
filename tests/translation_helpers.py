"""A data folder of translations, and the task that reads it."""

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.options import get_training_parser, parse_args_and_arch
from fairseq.tasks import setup_task
from omegaconf import OmegaConf

from fairtale.data.parallel.text import LanguageText, TextSettings, write_settings
from fairtale.plugin import register
from tests.helpers import dictionary_of, randomize, train_tokenizer, write_split
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


def write_checkpoint(
    folder, arch="transformer", task="wmt16_translation", seed=0, updates=0, **options
):
    """Write the checkpoint of a tiny model on a folder of :func:`write_data`.

    Args:
        folder: the data folder.
        arch: the architecture.
        task: the task.
        seed: of the random weights.
        updates: how often to train on all sentences.
        options: of ``fairseq-train``, with ``_`` for ``-``.

    Returns:
        its path.
    """
    register()
    words = [str(folder), "--task", task, "-s", "en", "-t", "ru", "--arch", arch]
    shape = {"embed-dim": 16, "ffn-embed-dim": 32, "layers": 2, "attention-heads": 2}
    for side in ("encoder", "decoder"):
        words += [str(w) for name, value in shape.items() for w in (f"--{side}-{name}", value)]
    words += [
        str(w) for pair in options.items() for w in (f"--{pair[0].replace('_', '-')}", pair[1])
    ]
    args = parse_args_and_arch(get_training_parser(), input_args=words)
    cfg = convert_namespace_to_omegaconf(args)
    made = setup_task(cfg.task)
    model = randomize(made.build_model(cfg.model), scale=0.5 if updates == 0 else 0.2, seed=seed)
    train(model, rows_of(made, "train")[1], updates)
    history = {
        "criterion_name": "CrossEntropyCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": 1,
    }
    path = folder / f"{arch}_{task}_{seed}_{updates}.pt"
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "optimizer_history": [history],
        "task_state": made.state_dict(),
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(state, path)
    return str(path)


def train(model, batch, updates):
    """Train a model on one batch, without dropout."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(updates):
        logits = model.eval()(**batch["net_input"])[0]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["target"].flatten(), ignore_index=1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
