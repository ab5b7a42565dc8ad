"""Perplexity of texts under a causal language model from a local Hugging Face folder.

Each line of TEXT is one text (or what stands between --separator). A text longer than the
window is scored by a window that slides by --stride, so every token but those at the very
beginning has at least window - stride tokens before it. Printed: perplexity by token, bits
by byte of UTF-8 (comparable between tokenizers), and the settings that made them.

The model is read from disk alone: nothing is fetched, no code of the folder is run, and
weights are safetensors or loaded weights-only.
"""

import argparse
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

from ..data.corpus.text_lines import read_text_lines
from ..errors import UserError
from .argument_types import positive_int
from .devices import find_device
from .optional import require, require_transformers
from .progress import progress_bar
from .tables import table

RENAMED_OPTIONS = {"--device": "--cpu"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("text", nargs="+", help="UTF-8 files; - is standard input")
    parser.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face model folder")
    parser.add_argument(
        "--separator",
        metavar="S",
        help="between texts, e.g. '<|endoftext|>' (default: each line is a text)",
    )
    parser.add_argument(
        "--window",
        type=positive_int,
        help="tokens the model sees at once (default: as many as it has positions)",
    )
    parser.add_argument(
        "--stride", type=positive_int, help="tokens the window moves (default: half the window)"
    )
    parser.add_argument(
        "--no-begin",
        action="store_true",
        help="put no begin mark before a text; its first token is then not scored",
    )
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="use the CPU even where there is a GPU (CUDA_VISIBLE_DEVICES chooses another GPU)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision of the model (default: bfloat16 on a GPU, float32 elsewhere)",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=8, help="windows at once (default: %(default)s)"
    )
    parser.add_argument("--table", action="store_true", help="print a Markdown table")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


class Score(NamedTuple):
    """Sums over all texts of a file; ``nll`` is in nats over ``num_tokens`` tokens."""

    nll: float
    num_tokens: int
    num_bytes: int
    num_texts: int
    num_empty: int

    @property
    def perplexity(self) -> float:
        """Perplexity by token."""
        mean = self.nll / self.num_tokens
        return math.exp(mean) if mean < 700 else math.inf  # beyond, exp overflows

    @property
    def bits_per_byte(self) -> float:
        """Bits by byte of UTF-8."""
        return self.nll / math.log(2) / self.num_bytes


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    if not os.path.isdir(args.model):
        raise UserError(f"--model {args.model}: not a folder; models are read from disk only")
    # Before the slow imports: a missing text should not take ten seconds to be noticed.
    texts = {path: read_texts(path, args.separator) for path in args.text}
    require("torch", extra=None)
    require_transformers()
    scorer = Scorer(args)
    scores = {}
    for path, of_file in texts.items():
        scores[path] = scorer.score(of_file, path)
    _print_scores(scores, args.table)
    print(scorer.signature())


def read_texts(path: str, separator: str | None) -> list[str]:
    """Return the texts of a file, white space at their ends removed; empty ones included.

    Raises:
        UserError: no text but white space in the file, or not UTF-8.
    """
    lines = read_text_lines(path)
    if separator:
        texts = "\n".join(lines).split(separator)
        if not texts[-1].strip():
            texts.pop()  # a separator ends the last text
    else:
        texts = list(lines)
    texts = [text.strip() for text in texts]
    if not any(texts):
        raise UserError(f"{path}: no text in it, so there is no perplexity")
    return texts


def windows(num_tokens: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Place sliding windows over ``num_tokens`` tokens.

    Yields:
        ``(begin, end, first_scored)``: tokens ``begin`` to ``end`` are seen, and those from
        ``first_scored`` on are scored. Token 0 is context only; every other token is
        scored exactly once.
    """
    first_scored, begin = 1, 0
    while first_scored < num_tokens:
        end = min(begin + size, num_tokens)
        yield begin, end, first_scored
        first_scored = end
        begin += stride


class Scorer:
    """A causal model with its tokenizer, ready to score texts.

    Args:
        args: the options of this verb.

    Raises:
        UserError: the folder holds no such model, or an option does not fit it.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        import transformers

        self._torch = torch
        self._args = args
        self._device = find_device(args.cpu)
        default = "bfloat16" if self._device.type == "cuda" else "float32"
        self._dtype = args.dtype or default
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        has_safetensors = any(name.endswith(".safetensors") for name in os.listdir(args.model))
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(args.model, **local)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                args.model,
                use_safetensors=has_safetensors,
                weights_only=True,
                dtype=getattr(torch, self._dtype),
                **local,
            )
            self._model = model.to(self._device).eval()
        except Exception as error:  # whatever is wrong with a folder comes in many classes
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"--model {args.model}: not a causal language model with its tokenizer "
                f"({type(error).__name__}: {reason})"
            ) from error
        self._set_window()
        self._begin = None if args.no_begin else self._tokenizer.bos_token_id

    def _set_window(self) -> None:
        """Choose window and stride, as far as the model has positions."""
        args, config = self._args, self._model.config
        positions = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", None
        )
        self._window = args.window or positions or 1024
        if positions and self._window > positions:
            raise UserError(
                f"--window {self._window}: the model has {positions} positions; at most that"
            )
        if self._window < 2:
            raise UserError("--window 1: at least 2, one token to see and one to score")
        # A token must see at least one before it, so the stride stays below the window.
        self._stride = args.stride or max(1, self._window // 2)
        if self._stride >= self._window:
            raise UserError(f"--stride {self._stride}: below the window of {self._window} tokens")

    def signature(self) -> str:
        """Return the settings that change the figures, as one line."""
        import transformers

        parts = {
            "model": os.path.basename(os.path.abspath(self._args.model)),
            "window": self._window,
            "stride": self._stride,
            "begin": "none"
            if self._begin is None
            else self._tokenizer.convert_ids_to_tokens(self._begin),
            "separator": repr(self._args.separator) if self._args.separator else "line",
            "dtype": self._dtype,
            "device": self._device.type,
            "transformers": transformers.__version__,
        }
        return "|".join(f"{name}:{value}" for name, value in parts.items())

    def score(self, texts: list[str], name: str) -> Score:
        """Score the texts of a file.

        Raises:
            UserError: not one token was scored, or the model gave no number.
        """
        rows, num_tokens = self._rows(texts)
        nll = 0.0
        # Longest first: rows of one batch are of like length, and a batch too large for
        # the memory fails at once and not at the end.
        rows.sort(key=lambda row: -len(row[0]))
        size = self._args.batch_size
        with progress_bar(num_tokens, "tok", name, disable=self._args.quiet) as bar:
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                try:
                    nll += self._batch_nll(batch)
                except self._torch.OutOfMemoryError:
                    raise UserError(
                        f"--batch-size {size}: too much for the memory of {self._device}; lower it"
                    ) from None
                bar.update(sum(len(ids) - first for ids, first in batch))
        if not num_tokens:
            raise UserError(f"{name}: not one token was scored; give longer texts or a begin mark")
        if not math.isfinite(nll):
            raise UserError(f"{name}: the model gave {nll}; try --dtype float32")
        num_bytes = sum(len(text.encode()) for text in texts)
        num_empty = texts.count("")
        return Score(nll, num_tokens, num_bytes, len(texts) - num_empty, num_empty)

    def _rows(self, texts: list[str]) -> tuple[list[tuple[list[int], int]], int]:
        """Return ``([(token ids of a window, first scored index)], tokens scored)``."""
        rows, num_tokens = list[tuple[list[int], int]](), 0
        for text in texts:
            if not text:
                continue
            # Marks in a text are letters: a story about "<|endoftext|>" does not end there.
            ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            ids = ids["input_ids"]
            if self._begin is not None:
                ids = [self._begin, *ids]
            for begin, end, first in windows(len(ids), self._window, self._stride):
                rows.append((ids[begin:end], first - begin))
                num_tokens += end - first
        return rows, num_tokens

    def _batch_nll(self, batch: list[tuple[list[int], int]]) -> float:
        """Return the negative log-likelihood in nats, summed over the scored tokens of a batch."""
        torch = self._torch
        length = max(len(ids) for ids, _ in batch)
        tokens = torch.zeros(len(batch), length, dtype=torch.long)  # [B, T], padded with id 0
        seen = torch.zeros_like(tokens)  # 1 is a real token
        targets = torch.full_like(tokens, -100)  # -100 is not scored
        for row, (ids, first) in enumerate(batch):
            tokens[row, : len(ids)] = torch.tensor(ids)
            seen[row, : len(ids)] = 1
            targets[row, first : len(ids)] = torch.tensor(ids[first:])
        tokens, seen, targets = (x.to(self._device) for x in (tokens, seen, targets))
        with torch.inference_mode():
            logits = self._model(input_ids=tokens, attention_mask=seen).logits  # [B, T, V]
            nll = 0.0
            # Row by row, so that the log-softmax in fp32 is held for one row at a time.
            for row in range(len(batch)):
                nll += torch.nn.functional.cross_entropy(
                    logits[row, :-1].float(), targets[row, 1:], ignore_index=-100, reduction="sum"
                ).item()
        return nll


def _print_scores(scores: dict[str, Score], as_table: bool) -> None:
    heads = ("text", "texts", "tokens", "bytes", "perplexity", "bits/byte")
    rows = [
        (
            path,
            str(score.num_texts),
            str(score.num_tokens),
            str(score.num_bytes),
            f"{score.perplexity:.3f}",
            f"{score.bits_per_byte:.4f}",
        )
        for path, score in scores.items()
    ]
    print(table(heads, rows, as_table))
    num_empty = sum(score.num_empty for score in scores.values())
    if num_empty:
        print(f"empty texts skipped: {num_empty}")
