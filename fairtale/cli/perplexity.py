"""Measure the perplexity of texts under a causal language model in a Hugging Face folder.

Each line of a file is one text, unless --separator is given. A text longer than the window is
scored with a sliding window that moves by --stride tokens, so that every token except the first
ones is predicted from at least window - stride tokens. The output holds the perplexity per token,
the bits per byte of UTF-8 (which compare models with different tokenizers), and the settings.

The model is read from disk: nothing is downloaded, no code of the folder is run, and the weights
are safetensors or are loaded with weights_only.
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
    parser.add_argument("text", nargs="+", help="UTF-8 files; - for standard input")
    parser.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face model folder")
    parser.add_argument(
        "--separator",
        metavar="S",
        help="separator of texts, e.g. '<|endoftext|>' (default: each line is a text)",
    )
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help="tokens of one input of the model (default: its number of positions)",
    )
    parser.add_argument(
        "--stride",
        type=positive_int,
        metavar="N",
        help="tokens by which the window moves (default: half the window)",
    )
    parser.add_argument(
        "--no-begin",
        action="store_true",
        help="do not put the model's begin token before a text; the first token is then not scored",
    )
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="use the CPU even if there is a GPU (CUDA_VISIBLE_DEVICES selects one of several)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision of the model (default: bfloat16 on a GPU, float32 elsewhere)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=8,
        metavar="N",
        help="windows of one batch (default: %(default)s)",
    )
    parser.add_argument("--table", action="store_true", help="print a Markdown table")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


class Score(NamedTuple):
    """Sums over all texts of a file."""

    nll: float  # negative log-likelihood of all scored tokens, in nats
    num_tokens: int
    num_bytes: int
    num_texts: int
    num_empty: int

    @property
    def perplexity(self) -> float:
        """Perplexity per token."""
        mean = self.nll / self.num_tokens
        return math.exp(mean) if mean < 700 else math.inf  # exp overflows for larger values

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8."""
        return self.nll / math.log(2) / self.num_bytes


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    if not os.path.isdir(args.model):
        raise UserError(f"--model {args.model}: not a folder; models are read from disk only")
    # Read the texts before the slow imports, so that a missing file is reported at once.
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
    """Return the texts of a file, stripped of surrounding white space; texts may be empty.

    Args:
        path: a file, or ``-`` for standard input.
        separator: separator of the texts; None for one text a line.

    Raises:
        UserError: the file holds only white space, or it is not UTF-8.
    """
    lines = read_text_lines(path)
    if separator:
        texts = "\n".join(lines).split(separator)
        if not texts[-1].strip():
            texts.pop()  # the file ends with a separator
    else:
        texts = list(lines)
    texts = [text.strip() for text in texts]
    if not any(texts):
        raise UserError(f"{path}: no text in it, so there is no perplexity")
    return texts


def windows(num_tokens: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield the sliding windows over a text.

    Args:
        num_tokens: number of tokens of the text.
        size: maximum number of tokens of a window.
        stride: number of tokens by which the window moves.

    Yields:
        ``(begin, end, first_scored)``: the tokens ``begin`` to ``end`` (exclusive) are the input,
        and those from ``first_scored`` on are scored. Token 0 serves only as context; every other
        token is scored exactly once.
    """
    first_scored, begin = 1, 0
    while first_scored < num_tokens:
        end = min(begin + size, num_tokens)
        yield begin, end, first_scored
        first_scored = end
        begin += stride


class Scorer:
    """A causal language model with its tokenizer, which scores texts.

    Args:
        args: the options of this verb.

    Raises:
        UserError: the folder does not hold such a model, or an option does not suit the model.
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
        except Exception as error:  # transformers raises exceptions of many classes
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"--model {args.model}: not a causal language model with its tokenizer "
                f"({type(error).__name__}: {reason})"
            ) from error
        self._set_window()
        self._begin = None if args.no_begin else self._tokenizer.bos_token_id

    def _set_window(self) -> None:
        """Set window and stride, and check them against the model's number of positions."""
        args, config = self._args, self._model.config
        positions = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", None
        )
        self._window = args.window or positions or 1024
        if positions and self._window > positions:
            raise UserError(
                f"--window {self._window}: must be at most {positions}, the number of positions "
                "of the model"
            )
        if self._window < 2:
            raise UserError("--window 1: must be at least 2, a token of context and one to score")
        # Every scored token needs at least one token of context.
        self._stride = args.stride or max(1, self._window // 2)
        if self._stride >= self._window:
            raise UserError(
                f"--stride {self._stride}: must be below the window of {self._window} tokens"
            )

    def signature(self) -> str:
        """Return the settings that the scores depend on, as one line."""
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

        Args:
            texts: the texts; empty ones are skipped.
            name: name of the file, for messages.

        Raises:
            UserError: no token was scored, the model returned inf or nan, or memory is too small.
        """
        rows, num_tokens = self._rows(texts)
        nll = 0.0
        # Longest first: the rows of a batch then have similar lengths, and a batch that is too
        # large for the memory fails at once.
        rows.sort(key=lambda row: -len(row[0]))
        size = self._args.batch_size
        with progress_bar(num_tokens, "tok", name, disable=self._args.quiet) as bar:
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                try:
                    nll += self._batch_nll(batch)
                except self._torch.OutOfMemoryError:
                    raise UserError(
                        f"--batch-size {size}: too large for the memory of {self._device}; lower it"
                    ) from None
                bar.update(sum(len(ids) - first for ids, first in batch))
        if not num_tokens:
            raise UserError(
                f"{name}: no token was scored; give longer texts or leave --no-begin out"
            )
        if not math.isfinite(nll):
            raise UserError(f"{name}: the model returned {nll}; try --dtype float32")
        num_bytes = sum(len(text.encode()) for text in texts)
        num_empty = texts.count("")
        return Score(nll, num_tokens, num_bytes, len(texts) - num_empty, num_empty)

    def _rows(self, texts: list[str]) -> tuple[list[tuple[list[int], int]], int]:
        """Return ``([(token ids of a window, first scored index)], number of scored tokens)``."""
        rows, num_tokens = list[tuple[list[int], int]](), 0
        for text in texts:
            if not text:
                continue
            # Special tokens that are spelled in a text, such as "<|endoftext|>", are plain text.
            ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            ids = ids["input_ids"]
            if self._begin is not None:
                ids = [self._begin, *ids]
            for begin, end, first in windows(len(ids), self._window, self._stride):
                rows.append((ids[begin:end], first - begin))
                num_tokens += end - first
        return rows, num_tokens

    def _batch_nll(self, batch: list[tuple[list[int], int]]) -> float:
        """Return the negative log-likelihood of a batch in nats, summed over its scored tokens."""
        torch = self._torch
        length = max(len(ids) for ids, _ in batch)
        tokens = torch.zeros(len(batch), length, dtype=torch.long)  # [B, T], padded with id 0
        seen = torch.zeros_like(tokens)  # 1 for a token, 0 for padding
        targets = torch.full_like(tokens, -100)  # -100 is ignored by the loss
        for row, (ids, first) in enumerate(batch):
            tokens[row, : len(ids)] = torch.tensor(ids)
            seen[row, : len(ids)] = 1
            targets[row, first : len(ids)] = torch.tensor(ids[first:])
        tokens, seen, targets = (x.to(self._device) for x in (tokens, seen, targets))
        with torch.inference_mode():
            logits = self._model(input_ids=tokens, attention_mask=seen).logits  # [B, T, V]
            nll = 0.0
            # Row by row, so that the log-softmax in fp32 needs memory for only one row.
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
