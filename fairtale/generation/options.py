"""Define the rules for decoding options, and the options of one sampled text.

The rules apply wherever text is generated: fairseq's commands, ``fairtale chat``, samples in
validation and the HTTP service. Options have fairseq's names and meanings. This module imports
neither torch nor fairseq, so that a mistake is reported before a model is loaded.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import UserError

DEFAULT_TOPK = 10  # top-k of a sampled text if neither top-k nor top-p is given
DEFAULT_MAX_LEN = 60  # maximum length of a sampled text, in tokens

# fairseq's own defaults, and those of the options that fairtale adds
DEFAULTS: Mapping[str, Any] = {
    "beam": 5,
    "nbest": 1,
    "max_len_a": 0.0,
    "max_len_b": 200,
    "min_len": 1,
    "sampling": False,
    "sampling_topk": -1,
    "sampling_topp": -1.0,
    "temperature": 1.0,
    "no_repeat_ngram_size": 0,
    "diverse_beam_groups": -1,
    "diversity_rate": -1.0,
    "constraints": None,
    "print_alignment": None,
    "seed": None,
    "block_context_ngram": 0,
    "steer_words": None,
    "steer_weight": None,
}


class Rule(NamedTuple):
    """A condition that the values of one or more options must satisfy."""

    options: tuple[str, ...]  # names of the options whose values are passed to ``holds``
    holds: Callable[..., bool]
    message: str  # error message; a format string whose fields are names of options


def _not_negative(option: str) -> Rule:
    flag = f"--{option.replace('_', '-')}"
    return Rule((option,), lambda value: value >= 0, f"{flag} {{{option}}}: must not be negative")


RULES = (
    Rule(
        ("temperature",),
        lambda temperature: 0 < temperature < math.inf,
        "--temperature {temperature}: must be > 0 and finite (--sampling-topk 1 is greedy)",
    ),
    Rule(
        ("sampling", "sampling_topk"),
        lambda sampling, topk: sampling or topk < 0,
        "--sampling-topk {sampling_topk} needs --sampling",
    ),
    Rule(
        ("sampling", "sampling_topp"),
        lambda sampling, topp: sampling or topp < 0,
        "--sampling-topp {sampling_topp} needs --sampling",
    ),
    Rule(
        ("sampling_topk",),
        lambda topk: topk == -1 or topk >= 1,
        "--sampling-topk {sampling_topk}: must be at least 1, or -1 for no limit",
    ),
    Rule(
        ("sampling_topp",),
        lambda topp: topp == -1.0 or 0 < topp <= 1,
        "--sampling-topp {sampling_topp}: must be above 0 and at most 1, or -1 for no limit",
    ),
    Rule(
        ("sampling_topk", "sampling_topp"),
        lambda topk, topp: topk < 0 or topp < 0,
        "--sampling-topk {sampling_topk} and --sampling-topp {sampling_topp}: give one of them",
    ),
    Rule(
        ("sampling", "diverse_beam_groups", "diversity_rate"),
        lambda sampling, groups, rate: bool(sampling) + (groups > 0) + (rate > 0) <= 1,
        "--sampling, --diverse-beam-groups and --diversity-rate: give one of them",
    ),
    Rule(
        ("beam", "diverse_beam_groups"),
        lambda beam, groups: groups <= 0 or beam % groups == 0,
        "--beam {beam} must be a multiple of --diverse-beam-groups {diverse_beam_groups}",
    ),
    Rule(("beam",), lambda beam: beam >= 1, "--beam {beam}: must be at least 1"),
    Rule(
        ("nbest", "beam"),
        lambda nbest, beam: nbest <= beam,
        "--nbest {nbest} is more than --beam {beam}: raise --beam",
    ),
    _not_negative("min_len"),
    _not_negative("no_repeat_ngram_size"),
    Rule(
        ("max_len_a", "max_len_b", "min_len"),
        lambda max_len_a, max_len_b, min_len: max_len_b >= min_len or max_len_a > 0,
        "--max-len-b {max_len_b} is less than --min-len {min_len}",
    ),
    Rule(
        ("max_len_a",),
        lambda max_len_a: max_len_a >= 0,
        "--max-len-a {max_len_a}: must not be negative",
    ),
    Rule(
        ("constraints",),
        lambda constraints: constraints is None,
        "--constraints: not supported by this task",
    ),
    Rule(
        ("print_alignment",),
        lambda print_alignment: not print_alignment,
        "--print-alignment: not supported by this task",
    ),
    _not_negative("block_context_ngram"),
    Rule(
        ("steer_weight", "steer_words"),
        lambda weight, words: weight is None or (math.isfinite(weight) and bool(words)),
        "--steer-weight {steer_weight}: must be finite, and needs --steer-words FILE",
    ),
    Rule(
        ("seed",),
        lambda seed: seed is None or -(1 << 63) <= seed < 1 << 64,
        "--seed {seed}: must be a 64-bit integer",
    ),
)


def check_decoding(given: Mapping[str, Any]) -> None:
    """Refuse decoding options that break a rule.

    Args:
        given: values by fairseq's names; options that are absent or None have their defaults.

    Raises:
        UserError: a rule is broken; the message contains every broken rule, with its options,
            their values and the remedy.
    """
    values = {
        name: default if given.get(name) is None else given[name]
        for name, default in DEFAULTS.items()
    }
    broken = [
        rule.message.format_map(values)
        for rule in RULES
        if not rule.holds(*(values[name] for name in rule.options))
    ]
    if broken:
        raise UserError("; ".join(broken))


def check_command(args: Namespace, words: list[str]) -> None:
    """Refuse decoding options that break a rule, on the command line of fairseq's commands.

    The rules hold for every task, but for the options that only some tasks support; the tasks of
    this project refuse those when they build the generator.

    Args:
        args: parsed options of a fairseq command; those of a command that does not decode are not
            checked.
        words: words of the command line, which are not used.

    Raises:
        UserError: a rule is broken, as in :func:`check_decoding`.
    """
    if hasattr(args, "beam") and hasattr(args, "nbest"):
        names = DEFAULTS.keys() - {"constraints", "print_alignment", "seed"}
        check_decoding({name: getattr(args, name, None) for name in names})


def check_sampling(given: Mapping[str, Any]) -> None:
    """Refuse options of a sampled text that break a rule.

    Args:
        given: values by the names of the fields of :class:`DecodingOptions`.

    Raises:
        UserError: a rule is broken, as in :func:`check_decoding`.
    """
    max_len = given.get("max_len_b")
    # top-p 1 does not limit the choice, so it does not contradict a top-k
    topp = -1.0 if given.get("sampling_topp") == 1 else given.get("sampling_topp")
    settled = {
        "sampling": True,
        "sampling_topp": topp,
        "max_len_b": DEFAULT_MAX_LEN if max_len is None else max_len,
    }
    check_decoding({**given, **settled})


@dataclass(frozen=True)
class DecodingOptions:
    """Options for sampling one text.

    The fields have the names and meanings of fairseq's options; ``--sampling`` is implied.

    Args:
        max_len_b: maximum number of tokens, without the EOS token; None for ``DEFAULT_MAX_LEN``, or
            for the model's limit if that is smaller.
        min_len: minimum number of tokens.
        sampling_topk: number of the most probable tokens to choose from; 1 is greedy, -1 means no
            limit. None for ``DEFAULT_TOPK``, or for no limit if ``sampling_topp`` is given.
        sampling_topp: choose from the smallest set of tokens with at least this probability, in
            (0, 1]; -1 or 1 means no limit.
        temperature: divisor of the logits, above 0.
        no_repeat_ngram_size: forbid repeated n-grams of this size in the text; 0 is off.
        block_context_ngram: forbid n-grams of this size that occur in the context; 0 is off.
        seed: random seed; None for a different text each time.

    Raises:
        UserError: a rule is broken; the message contains every broken rule.
    """

    max_len_b: int | None = None
    min_len: int = 1
    sampling_topk: int | None = None
    sampling_topp: float = -1.0
    temperature: float = 1.0
    no_repeat_ngram_size: int = 0
    block_context_ngram: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_sampling(vars(self))

    @property
    def max_len(self) -> int:
        """Return the maximum number of tokens, with the default filled in."""
        return DEFAULT_MAX_LEN if self.max_len_b is None else self.max_len_b

    @property
    def topp(self) -> float:
        """Return the probability of the nucleus; -1 for no limit, also if it was given as 1."""
        return -1.0 if self.sampling_topp == 1 else self.sampling_topp

    @property
    def topk(self) -> int:
        """Return the number of the most probable tokens to choose from; -1 for all tokens."""
        if self.sampling_topk is not None:
            return self.sampling_topk
        return DEFAULT_TOPK if self.topp < 0 else -1

    def as_generation_args(self) -> Namespace:
        """Return these options in the form that fairseq's ``build_generator`` takes.

        fairseq has no ``seed`` and ``block_context_ngram`` here; the caller must apply them.
        """
        return Namespace(
            beam=1,
            nbest=1,
            sampling=True,
            sampling_topk=self.topk,
            sampling_topp=self.topp,
            temperature=self.temperature,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            min_len=self.min_len,
            max_len_a=0,
            max_len_b=self.max_len,
        )
