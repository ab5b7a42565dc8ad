"""Compare sizes, translation quality and speed of translation models on the same sentences."""

from __future__ import annotations

import os
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils, tasks, utils
from fairseq.data import encoders
from fairseq.dataclass.configs import GenerationConfig

from ..compat import read_checkpoint
from ..errors import UserError
from ..interfaces import HasPlainText
from .checkpoint import check_dictionaries
from .parts import type_of
from .removal import gate_values, head_counts, unit_counts

# Function that decodes the tokens of a sentence; the second argument replaces unknown tokens.
PlainText = Callable[[torch.Tensor, str], str]
# Batches are arrays of sentence numbers.
Batches = Sequence[Any]
# Unknown tokens of a reference must not match unknown tokens of a translation.
UNKNOWN_REFERENCE, UNKNOWN_TRANSLATION = "UNKNOWNREF", "UNKNOWNHYP"


@dataclass(frozen=True)
class SearchOptions:
    """Options of the beam search."""

    beam: int
    lenpen: float
    max_len_a: float  # a translation has at most max_len_a * source + max_len_b tokens
    max_len_b: int


@dataclass
class Entrant:
    """A model of the comparison, and its results."""

    name: str
    path: str
    model: Any
    generator: Any
    heads: dict[str, int]  # number of open heads by attention type
    units: int  # number of feed-forward units in all layers
    parameters: int
    megabytes: float  # size of the file
    bleu: float = 0.0
    chrf: float = 0.0
    written: int = 0  # number of tokens of the scored translations, with their end marks
    seconds: list[float] = field(default_factory=list)  # duration of each round
    # the same of rounds in which each model writes translations of the same length
    even_seconds: list[float] = field(default_factory=list)
    even_generator: Any = None

    def speed(self, num_sentences: int, even: bool = False) -> float:
        """Return the speed in sentences per second, the median over the rounds.

        Args:
            num_sentences: number of sentences in a round.
            even: of the rounds with translations of the same length.
        """
        return num_sentences / statistics.median(self.times(even))

    def faster_than(self, other: Entrant, even: bool = False) -> float:
        """Return the speed-up over another model, the median over the rounds."""
        pairs = zip(self.times(even), other.times(even), strict=True)
        return statistics.median(theirs / own for own, theirs in pairs)

    def times(self, even: bool) -> list[float]:
        """Return the list of the durations of one kind of rounds."""
        return self.even_seconds if even else self.seconds


# ---------------------------------------------------------------------- models and sentences


def load_entrants(
    paths: Mapping[str, str], data: str, search: SearchOptions, device: torch.device
) -> tuple[Any, list[Entrant]]:
    """Load the models, and the task of the first one, which all of them use.

    Args:
        paths: paths of the checkpoints, by the names of the models.
        data: folder of binarised data.
        search: options of the beam search.
        device: device of the models.

    Raises:
        UserError: a file is not a checkpoint of a transformer, or was trained with another
            dictionary.
    """
    # switch off BLEU in validation, because it would need tokenizers that are not needed here
    overrides = {"data": data, "eval_bleu": False, "eval_bleu_sentences": 0}
    task, entrants = None, []
    for name, path in paths.items():
        weights = read_checkpoint(path)["model"]
        if "encoder.embed_tokens.weight" not in weights:
            raise UserError(f"{path}: not a transformer with an encoder and a decoder")
        if task is None:
            state = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
            task = tasks.setup_task(state["cfg"].task, from_checkpoint=True)
        check_dictionaries(task, weights, path, data)
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], overrides, task)
        entrants.append(_entrant(name, path, model.to(device).eval(), cfg, task, search))
    return task, entrants


def _entrant(
    name: str, path: str, model: Any, cfg: Any, task: Any, search: SearchOptions
) -> Entrant:
    """Count the parts of a model and prepare it for generation."""
    gates, heads = gate_values(model), dict[str, int]()
    for key, count in head_counts(model).items():
        count = int((gates[key] > 0).sum()) if key in gates else count
        heads[type_of(key)] = heads.get(type_of(key), 0) + count
    units = sum(unit_counts(model).values())
    parameters = sum(p.numel() for p in model.parameters())
    model.prepare_for_inference_(cfg)
    generator = task.build_generator([model], _options(search))
    megabytes = os.path.getsize(path) / 1e6
    return Entrant(name, path, model, generator, heads, units, parameters, megabytes)


def _options(search: SearchOptions, length: int | None = None) -> GenerationConfig:
    """Return options of a search, in which all translations have the given number of tokens."""
    options = GenerationConfig(beam=search.beam, lenpen=search.lenpen)
    options.max_len_a, options.max_len_b = search.max_len_a, search.max_len_b
    if length is not None:
        options.min_len, options.max_len_a, options.max_len_b = length, 0.0, length
    return options


def even_length(dataset: Any, entrants: Sequence[Entrant]) -> int:
    """Return a length that all models can write: the median of the references, or sources."""
    sizes = dataset.src_sizes if dataset.tgt_sizes is None else dataset.tgt_sizes
    most = min(entrant.model.max_decoder_positions() for entrant in entrants)
    return max(1, min(int(np.median(sizes)) - 1, most - 2))  # without the end mark


def prepare_even_rounds(
    task: Any, entrants: Sequence[Entrant], search: SearchOptions, length: int
) -> None:
    """Give each model a search in which all translations have the same number of tokens.

    A model is fast if it writes little, whatever its size; with this search the models do the same
    work.
    """
    for entrant in entrants:
        options = _options(search, length)
        entrant.even_generator = task.build_generator([entrant.model], options)


def check_lengths(dataset: Any, subset: str, task: Any, entrants: Sequence[Entrant]) -> None:
    """Refuse a data set with sentences that are too long for a model.

    Args:
        dataset: the data set of the subset.
        subset: name of the subset, for the error message.
        task: task of the models.
        entrants: models of the comparison.

    Raises:
        UserError: a sentence is too long.
    """
    longest = utils.resolve_max_positions(
        task.max_positions(), *(entrant.model.max_positions() for entrant in entrants)
    )
    _, ignored = dataset.filter_indices_by_size(np.arange(len(dataset)), longest)
    if len(ignored):
        raise UserError(
            f"--subset {subset}: sentence {ignored[0]} and {len(ignored) - 1} others are longer "
            f"than the models allow {longest}; use another subset"
        )


def batches_of(
    dataset: Any, batch_size: int, num_chosen: int, seed: int
) -> tuple[Batches, Batches]:
    """Return batches of all sentences, and batches of randomly chosen sentences.

    Args:
        dataset: the data set.
        batch_size: number of sentences in a batch; they have similar lengths.
        num_chosen: maximum number of chosen sentences.
        seed: random seed for choosing sentences.
    """
    indices = np.arange(len(dataset))
    chosen = np.random.default_rng(seed).permutation(indices)[:num_chosen]

    def cut(numbers: Any) -> Batches:
        order = numbers[np.argsort(dataset.num_tokens_vec(numbers), kind="stable")]
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    return cut(indices), cut(chosen)


# ------------------------------------------------------------------------------- text


def plain_text_of(task: Any, remove_bpe: str | None, tokenizer: str | None) -> PlainText:
    """Return a function that decodes the tokens of a sentence to plain text.

    Args:
        task: task of the models. It decodes the tokens itself if it can and neither of the other
            arguments is given.
        remove_bpe: fairseq's ``--remove-bpe``, which defines how pieces are joined.
        tokenizer: name of the fairseq tokenizer whose tokenisation is to be undone.
    """
    if isinstance(task, HasPlainText) and not (remove_bpe or tokenizer):
        return task.plain_text
    text: Any = None
    if tokenizer:
        languages = {"source_lang": task.cfg.source_lang, "target_lang": task.cfg.target_lang}
        text = encoders.build_tokenizer(Namespace(tokenizer=tokenizer, **languages))

    def plain_text(tokens: torch.Tensor, unknown: str) -> str:
        dictionary = task.target_dictionary
        line: str = dictionary.string(tokens.int().cpu(), remove_bpe, unk_string=unknown)
        return line if text is None else text.decode(line)

    return plain_text


def references_of(dataset: Any, padding_idx: int, plain_text: PlainText) -> dict[int, str]:
    """Return the references of a data set as plain text, keyed by sentence number."""
    rows = (utils.strip_pad(dataset.tgt[i], padding_idx) for i in range(len(dataset)))
    return {i: plain_text(row, UNKNOWN_REFERENCE) for i, row in enumerate(rows)}


# ------------------------------------------------------------------------- measurement


def translate(
    task: Any, entrant: Entrant, dataset: Any, batch: Any, device: torch.device, even: bool = False
) -> Iterator[tuple[int, Any]]:
    """Translate a batch; return pairs of sentence number and hypotheses, the best first."""
    generator = entrant.even_generator if even else entrant.generator
    sample = dataset.collater([dataset[int(i)] for i in batch])
    if device.type == "cuda":
        sample = utils.move_to_cuda(sample, device)
    with torch.no_grad():
        hypotheses = task.inference_step(generator, [entrant.model], sample)
    return zip(sample["id"].tolist(), hypotheses, strict=True)


def score(entrant: Entrant, translations: Mapping[int, str], references: Mapping[int, str]) -> None:
    """Compute BLEU and chrF of a model's translations, and store them in ``entrant``.

    Args:
        entrant: the model.
        translations: its translations, keyed by sentence number.
        references: the references, keyed by sentence number.
    """
    from sacrebleu.metrics import BLEU, CHRF

    order = sorted(references)
    candidates, wanted = [translations[i] for i in order], [[references[i] for i in order]]
    entrant.bleu = BLEU().corpus_score(candidates, wanted).score
    entrant.chrf = CHRF().corpus_score(candidates, wanted).score


def time_round(
    number: int,
    entrants: Sequence[Entrant],
    run: Callable[[Entrant], None],
    device: torch.device,
    even: bool = False,
) -> None:
    """Time one round, in which each model runs once, and store the durations in the entrants.

    The caller should run each model once before the first round, as a warm-up.

    Args:
        number: number of the round, from 0. Each round begins with another model, so that a drift
            in the speed of the machine affects all models equally.
        entrants: models of the comparison.
        run: function to time.
        device: device of the models.
        even: whether all translations have the same length.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    turn = number % len(entrants)
    for entrant in [*entrants[turn:], *entrants[:turn]]:
        wait()
        start = time.perf_counter()
        run(entrant)
        wait()
        entrant.times(even).append(time.perf_counter() - start)
