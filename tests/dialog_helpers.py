"""A tiny dialog dictionary, task and data."""

from argparse import Namespace

import numpy as np
import torch
from fairseq.data import Dictionary

from fairtale.data.corpus.vocabulary import token_bytes
from fairtale.data.dialog.cutting import DialogLimits
from fairtale.data.dialog.dataset import DialogDataset
from fairtale.data.dialog.line_format import CTX, NUM_SEGMENTS, SEP
from tests.helpers import build_transformer, randomize
from user_dir.models.gpt import GPTModel
from user_dir.models.unilm_seq2seq import UniLMSeq2SeqModel
from user_dir.tasks.dialog_lm import DialogLMConfig, DialogLMTask

LIMITS = DialogLimits(max_context_turns=10, max_source_positions=40, max_target_positions=20)


def dialog_dictionary(num_words=20):
    """Return words ``w0`` ... and the marks, which come last."""
    dictionary = Dictionary()
    for i in range(num_words):
        dictionary.add_symbol(f"w{i}")
    dictionary.add_symbol(CTX)
    dictionary.add_symbol(SEP)
    return dictionary


def encode(dictionary, line):
    """Return the tokens of a line of words and marks, with ``</s>``."""
    return dictionary.encode_line(line, add_if_not_exist=False).long()


def random_lines(count, seed=0, words=20, longest=7):
    """Return dialog lines with 0 to 2 context turns."""
    rng = np.random.default_rng(seed)

    def turn():
        return " ".join(f"w{i}" for i in rng.integers(0, words, rng.integers(1, longest)))

    return [
        " ".join(f"{turn()} {CTX}" for _ in range(rng.integers(0, 3))) + f" {turn()} {SEP} {turn()}"
        for _ in range(count)
    ]


def dialog_dataset(lines, dictionary=None, limits=LIMITS, **options):
    """Return the dataset of lines."""
    dictionary = dictionary or dialog_dictionary()
    return DialogDataset(
        [encode(dictionary, line) for line in lines],
        dictionary,
        dictionary.index(CTX),
        dictionary.index(SEP),
        limits,
        token_bytes(dictionary),
        **options,
    )


def dialog_task(dictionary=None, **options):
    """Return a ``dialog_lm`` task without data."""
    options = {"max_source_positions": 40, "max_target_positions": 20, **options}
    return DialogLMTask(DialogLMConfig(**options), dictionary or dialog_dictionary())


def dialog_model(dictionary=None, unilm=True, seed=0, **options):
    """Return a random model with segment embeddings, in eval mode."""
    dictionary = dictionary or dialog_dictionary()
    transformer = build_transformer(
        len(dictionary),
        dictionary.pad(),
        max_positions=40,
        num_segments=NUM_SEGMENTS,
        bidirectional_prefix=unilm,
        **options,
    )
    cls = UniLMSeq2SeqModel if unilm else GPTModel
    return cls(dictionary, randomize(transformer, seed=seed)).eval()


def batch_of(dataset):
    """Collate a whole dataset."""
    return dataset.collater([dataset[i] for i in range(len(dataset))])


def logits_of(model, batch, seq2seq):
    """Return the logits [N, V] of a packed batch."""
    with torch.no_grad():
        return model(**{**batch["net_input"], "seq2seq": seq2seq})[0][0]


def settled(task, probability):
    """Give a task the share of seq2seq updates that building its model would settle."""
    task._options["seq2seq_prob"] = probability
    return task


def answer(task, model, lines, from_dataset, **options):
    """Answer lines as fairseq-generate does (packed), or as fairseq-interactive (prefixes)."""
    dataset = dialog_dataset(lines, task.dictionary, task.limits)
    if from_dataset:
        dataset.keeps_context = bool(getattr(task.cfg, "block_context_ngram", 0))
        sample = batch_of(dataset)
    else:
        prefixes = [encode(task.dictionary, line.split(SEP)[0] + SEP) for line in lines]
        prefixes = task.build_dataset_for_inference(prefixes, None)
        whole = prefixes.collater([prefixes[i] for i in range(len(prefixes))])
        net_input = {name: whole["net_input"][name] for name in ("src_tokens", "src_lengths")}
        sample = {"net_input": net_input}
    generator = task.build_generator([model], Namespace(**{"beam": 2, "max_len_b": 6, **options}))
    return sample, task.inference_step(generator, [model], sample)
