"""Define the rules for numbers on the command lines of fairseq's commands.

fairseq accepts every number. Those that break a rule end in a traceback, some of them after hours,
or train nothing. The rules apply to fairseq's options and to ours, before data is read.
"""

from __future__ import annotations

import ast
import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .errors import UserError


class Rule(NamedTuple):
    """A condition on the value of one option, and the words that state it."""

    holds: Callable[[Any], bool]
    text: str


def _least(least: float, remedy: str = "", beside: float | None = None) -> Rule:
    """Return the rule "at least this number"; ``beside`` is a further value that is allowed."""
    also = "" if beside is None else f", or {beside:g}"
    return Rule(
        lambda x: x == beside or least <= x < math.inf, f"must be at least {least:g}{also}{remedy}"
    )


_POSITIVE = Rule(lambda x: 0 < x < math.inf, "must be above 0 and finite")
_COUNT = _least(1)
_NOT_NEGATIVE = _least(0)
_COUNT_OR_OFF = _least(1, " for no limit", beside=-1)
_SHARE = Rule(lambda x: 0 <= x < 1, "must be at least 0 and less than 1")
_PROBABILITY = Rule(lambda x: 0 <= x <= 1, "must be between 0 and 1")

RULES: dict[str, Rule] = {
    # what a batch and an update have
    "batch_size": _COUNT,
    "batch_size_valid": _COUNT,
    "max_tokens": _COUNT,
    "max_tokens_valid": _COUNT,
    "max_valid_steps": _COUNT,
    "required_batch_size_multiple": _COUNT,
    "required_seq_len_multiple": _COUNT,
    "update_freq": _COUNT,
    "num_workers": _least(0, "; 0 reads the data in the main process"),
    "data_buffer_size": _NOT_NEGATIVE,
    "tokens_per_sample": _least(2, ": a token and the one that it predicts"),
    "max_source_positions": _COUNT,
    "max_target_positions": _COUNT,
    # how long a training lasts, what it logs and keeps
    "max_epoch": _least(0, "; 0 sets no limit"),
    "max_update": _least(0, "; 0 sets no limit"),
    "stop_time_hours": _least(0, "; 0 sets no limit"),
    "log_interval": _COUNT,
    "validate_interval": _COUNT,
    "save_interval": _COUNT,
    "validate_interval_updates": _least(0, "; 0 is off"),
    "save_interval_updates": _least(0, "; 0 is off"),
    "validate_after_updates": _NOT_NEGATIVE,
    "keep_interval_updates": _least(0, " for all", beside=-1),
    "keep_last_epochs": _least(0, " for all", beside=-1),
    "keep_best_checkpoints": _least(0, " for all", beside=-1),
    "patience": _COUNT_OR_OFF,
    "seed": Rule(lambda x: 0 <= x < 1 << 32, "must be a whole number from 0 to 2^32 - 1"),
    # optimizers and schedules
    "lr": _POSITIVE,
    "clip_norm": _least(0, "; 0 clips nothing"),
    "weight_decay": _NOT_NEGATIVE,
    "adam_eps": _POSITIVE,
    "momentum": _SHARE,
    "warmup_updates": _NOT_NEGATIVE,
    "warmup_ratio": Rule(lambda x: 0 < x < 1, "must be between 0 and 1"),
    "cut_frac": Rule(lambda x: 0 < x < 1, "must be between 0 and 1"),
    "lr_shrink": _POSITIVE,
    "lr_threshold": _NOT_NEGATIVE,
    "ema_decay": _PROBABILITY,
    "ema_start_update": _NOT_NEGATIVE,
    "ema_update_freq": _COUNT,
    # evaluation and generation
    "context_window": _NOT_NEGATIVE,
    "softmax_batch": _COUNT,
    "num_shards": _COUNT,
    "shard_id": _NOT_NEGATIVE,
    "prefix_size": _NOT_NEGATIVE,
    # models and losses; dropout and names that end like those below have rules as well
    "label_smoothing": _SHARE,
    "layer_norm_eps": _POSITIVE,
    "lora_rank": _least(0, "; 0 trains no adapters"),
    "lora_alpha": _POSITIVE,
    "quant_noise_pq": _PROBABILITY,
    "quant_noise_pq_block_size": _COUNT,
    "quant_noise_scalar": _PROBABILITY,
    # tasks and criterions of this project
    "loss_chunk_mib": _least(0, "; 0 chooses by the device"),
    "prompt_tokens": _NOT_NEGATIVE,
    "seq2seq_prob": _PROBABILITY,
    "echo_query_prob": _PROBABILITY,
    "sample_length": _NOT_NEGATIVE,
    "sample_topk": _COUNT_OR_OFF,
    "sample_temperature": _POSITIVE,
    "sample_translations": _NOT_NEGATIVE,
    "eval_bleu_sentences": _least(0, "; 0 computes no BLEU"),
    "unlikelihood_alpha": _NOT_NEGATIVE,
    "unlikelihood_sequence_prob": _PROBABILITY,
    "unlikelihood_ngram": _COUNT,
    "unlikelihood_length": _least(2),
    "gate_temperature": _POSITIVE,
    "gate_lr_scale": _POSITIVE,
    "gates_fix_update": _least(0, " to learn to the end", beside=-1),
    "l0_warmup_updates": _NOT_NEGATIVE,
    "target_heads": _NOT_NEGATIVE,
}
# by the last words of an option's name
_BY_ENDING: tuple[tuple[str, Rule], ...] = (
    ("dropout", _SHARE),
    ("layerdrop", _SHARE),
    ("attention_heads", _COUNT),
    ("embed_dim", _COUNT),
    ("encoder_layers", _COUNT),
    ("decoder_layers", _COUNT),
)
# tokenizers -> options that name their files
_FILES_OF_BPE = {
    "sentencepiece": ("sentencepiece_model",),
    "subword_nmt": ("bpe_codes",),
    "fastbpe": ("bpe_codes",),
    "hf_byte_bpe": ("bpe_merges", "bpe_vocab"),
    "byte_bpe": ("sentencepiece_model_path",),
}
# results of a validation -> options of which one must be on
_REPORTED_BY = {
    "accuracy": ("report_accuracy",),
    "kl": ("report_kl",),
    "bleu": ("eval_bleu", "eval_bleu_sentences"),
}


def rule_of(name: str) -> Rule | None:
    """Return the rule of an option, by fairseq's name of its value; None if it has none."""
    found = RULES.get(name)
    return found or next((rule for ending, rule in _BY_ENDING if name.endswith(ending)), None)


def check_numbers(args: Namespace) -> None:
    """Refuse options whose numbers make a command fail later, or let it do nothing.

    Args:
        args: parsed options of a fairseq command; not every command has every option.

    Raises:
        UserError: the message contains every broken rule, with the option and its value.
    """
    broken = list(_broken(vars(args)))
    if broken:
        raise UserError("; ".join(broken))


def _broken(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        rule = rule_of(name)
        of_training = name.removesuffix("_valid")  # whose value it has if it is not given
        if rule is None or (of_training != name and value == values.get(of_training)):
            continue
        numbers = [_number(x) for x in (value if isinstance(value, list | tuple) else [value])]
        if all(map(_is_number, numbers)):
            wrong = [x for x in numbers if not rule.holds(x)]
            if wrong or (not numbers and isinstance(value, list)):
                yield f"{_flag(name)} {wrong[0] if wrong else '(empty)'}: {rule.text}"
    yield from _broken_texts(values)


def _broken_texts(values: dict[str, Any]) -> Iterator[str]:
    betas = values.get("adam_betas")
    if isinstance(betas, str) and not _are_betas(betas):
        yield f"--adam-betas {betas}: must be two numbers from 0 to below 1, as in '(0.9, 0.98)'"
    prompts = values.get("sample_prompts")
    if prompts is not None and not prompts.replace("|", "").strip():
        yield f"--sample-prompts {prompts!r}: holds no prompt; write prompts, separated by |"
    for name in _FILES_OF_BPE.get(values.get("bpe") or "", ()):
        if values.get(name) in (None, "", "???"):  # omegaconf's sign for a missing value
            yield f"--bpe {values['bpe']}: needs {_flag(name)}; give it as well"
    metric = values.get("best_checkpoint_metric")
    if metric in _REPORTED_BY:
        given = [values[name] for name in _REPORTED_BY[metric] if name in values]
        if given and not any(given):
            flag = _flag(_REPORTED_BY[metric][0])
            yield f"--best-checkpoint-metric {metric}: is computed only with {flag}; add it"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _number(value: Any) -> Any:
    """Return the number that a text means; fairseq leaves some numbers as text."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_betas(text: str) -> bool:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(_is_number(x) and _SHARE.holds(x) for x in value)
