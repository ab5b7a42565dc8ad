"""Tiny dictionaries, models and tasks that tests are built from."""

from argparse import Namespace
from dataclasses import fields

import sentencepiece
import torch
from fairseq.data import Dictionary, indexed_dataset

from fairtale.modules.prefix_transformer import DropoutRates, PrefixTransformer, TransformerShape
from user_dir.models.gpt import GPTModel
from user_dir.tasks.story_lm import StoryLMConfig, StoryLMTask

SHAPE = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32}


def tiny_dictionary(num_words=20):
    """Return a dictionary of the four special symbols and ``w0``, ``w1``, ..."""
    dictionary = Dictionary()
    for i in range(num_words):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def randomize(module, scale=0.4, seed=0):
    """Give every parameter a random value, so that each one matters, and return the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * scale)
            else:
                parameter.copy_(noise * 0.2 + name.endswith("norm.weight"))
    return module


def build_transformer(
    vocab_size,
    padding_idx,
    max_positions,
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    **options,
):
    """Return a :class:`PrefixTransformer` of ``SHAPE``, except where ``options`` say otherwise."""
    options = {**SHAPE, **options}
    shape = {f.name: options.pop(f.name) for f in fields(TransformerShape) if f.name in options}
    rates = DropoutRates(dropout, attention_dropout, activation_dropout)
    return PrefixTransformer(
        vocab_size, padding_idx, max_positions, TransformerShape(**shape), rates, **options
    )


def tiny_transformer(vocab_size=24, max_positions=16, seed=0, **options):
    """Return a random :class:`PrefixTransformer` in eval mode."""
    transformer = build_transformer(vocab_size, 1, max_positions, **options)
    return randomize(transformer, seed=seed).eval()


def tiny_model(dictionary=None, max_positions=16, seed=0, **options):
    """Return a random :class:`GPTModel` in eval mode."""
    dictionary = dictionary or tiny_dictionary()
    transformer = tiny_transformer(len(dictionary), max_positions, seed, **options)
    return GPTModel(dictionary, transformer).eval()


def tiny_task(dictionary=None, tokens_per_sample=16, **options):
    """Return a ``story_lm`` task without data."""
    # without a command this option would still be the text of a reference to another
    options.setdefault("tensorboard_logdir", None)
    cfg = StoryLMConfig(tokens_per_sample=tokens_per_sample, **options)
    return StoryLMTask(cfg, dictionary or tiny_dictionary())


def random_rows(lengths, vocab_size=24, seed=0):
    """Return rows of random words, int64, without special symbols."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, vocab_size, (n,), generator=generator) for n in lengths]


def generate(task, models, prompts, prefix_tokens=None, ids=None, **options):
    """Continue ``prompts`` (lists of words, without the begin mark) in one batch."""
    dataset = task.build_dataset_for_inference([torch.tensor(p).long() for p in prompts], None)
    sample = dataset.collater([dataset[i] for i in range(len(dataset))])
    if ids is not None:
        sample["id"] = torch.tensor(ids)
    options = Namespace(**{"beam": 1, "max_len_b": 8, **options})
    generator = task.build_generator(models, options)
    return task.inference_step(generator, models, sample, prefix_tokens=prefix_tokens)


def write_split(folder, split, rows, vocab_size):
    """Write rows of tokens the way fairseq-preprocess does: memory-mapped, with ``</s>``."""
    builder = indexed_dataset.make_builder(str(folder / f"{split}.bin"), "mmap", vocab_size)
    for row in rows:
        builder.add_item(torch.cat([torch.as_tensor(row).long(), torch.tensor([2])]).int())
    builder.finalize(str(folder / f"{split}.idx"))


def train_tokenizer(path, lines, vocab_size=320):
    """Write a SentencePiece BPE model with byte fallback, and return its processor."""
    with open(path, "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            minloglevel=2,
            num_threads=1,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def dictionary_of(processor):
    """Return the dictionary of a tokenizer's pieces, as fairseq-preprocess would make it."""
    dictionary = Dictionary()
    for i in range(processor.get_piece_size()):
        if not (processor.is_control(i) or processor.is_unknown(i)):
            dictionary.add_symbol(processor.id_to_piece(i))
    return dictionary
