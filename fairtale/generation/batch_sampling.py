"""Sample several texts for each of many prompts, in batches and repeatably.

Each sample has its own random numbers, which depend on the seed, on its prompt and on its number,
and not on the batch. It needs one uniform number for each token, so they are all drawn beforehand.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..interfaces import PrefixInput
from .options import DecodingOptions
from .processors import Processor
from .row_sampling import choose_tokens
from .streaming import Prefix, PrefixModel, next_lprobs


class Sample(NamedTuple):
    """One generated text."""

    request: int  # index of its prompt
    number: int  # 0 to N - 1
    text: str
    num_tokens: int  # without the EOS token


class Piece(NamedTuple):
    """Consecutive samples of one prompt, which are generated together."""

    request: int
    first: int
    size: int


def plan_batches(lengths: Sequence[int], num_samples: int, batch_size: int) -> list[list[Piece]]:
    """Return batches of pieces, all of the same size within a batch.

    Args:
        lengths: number of tokens of each prompt; prompts of similar length share a batch.
        num_samples: number of samples of each prompt, at least 1.
        batch_size: maximum number of samples in a batch, at least 1.
    """
    batches: list[list[Piece]] = []
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for first in range(0, num_samples, batch_size):
        size = min(batch_size, num_samples - first)
        together = batch_size // size
        for start in range(0, len(order), together):
            batches.append([Piece(i, first, size) for i in order[start : start + together]])
    return batches


def sample_seeds(
    requests: Sequence[str | Sequence[str]], num_samples: int, seed: int
) -> list[list[int]]:
    """Return a seed for each sample of each request.

    It depends on the text of the request, so it does not change with other requests. Requests with
    the same text are told apart by their order.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for request in requests:
        text = json.dumps(request if isinstance(request, str) else list(request))
        row = []
        for number in range(num_samples):
            words = f"{seed} {seen[text]} {number} {text}".encode()
            row.append(int.from_bytes(hashlib.sha256(words).digest()[:8], "little"))
        seen[text] += 1
        seeds.append(row)
    return seeds


def uniform_draws(seeds: Sequence[int], count: int) -> Tensor:
    """Return ``count`` uniform numbers in [0, 1) for each seed, fp64 [R, count], on the CPU."""
    rows = []
    for seed in seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64, device="cpu"))
    return torch.stack(rows)


def join_prefixes(prefixes: Sequence[Prefix], pad: int) -> Prefix:
    """Return one prefix of B rows, padded at the right, for B prefixes of one row.

    Args:
        prefixes: prefixes of the same task, with the same special tokens.
        pad: the padding token.
    """
    first = prefixes[0]
    longest = max(prefix.net_input["src_tokens"].size(1) for prefix in prefixes)
    joined: dict[str, object] = {}
    for name, value in first.net_input.items():
        if not isinstance(value, Tensor):
            joined[name] = value
            continue
        parts = [cast(Tensor, dict(prefix.net_input)[name]) for prefix in prefixes]
        if value.dim() == 2:
            fill = pad if name == "src_tokens" else 0
            parts = [F.pad(part, (0, longest - part.size(1)), value=fill) for part in parts]
        joined[name] = torch.cat(parts)
    return Prefix(cast(PrefixInput, joined), first.eos, first.forbidden)


@torch.no_grad()
def sample_tokens(
    model: PrefixModel,
    prefix: Prefix,
    draws: Tensor,
    options: DecodingOptions,
    processors: Sequence[Processor] = (),
) -> list[list[int]]:
    """Sample R = B * K texts, K for each of B prefixes; return their tokens without EOS.

    Args:
        model: prefix language model in evaluation mode.
        prefix: prefixes, on the model's device.
        draws: uniform numbers, fp64 [R, options.max_len].
        options: decoding options, as in :func:`~fairtale.generation.streaming.stream_tokens`.
        processors: as there.
    """
    out = model.encoder(**prefix.net_input)
    device, num_rows = out.tokens.device, draws.size(0)
    beams = num_rows // out.next_positions.numel()
    spread = torch.arange(num_rows, device=device) // beams
    out = model.encoder.reorder_encoder_out(out, spread)
    room = out.per_row(model.max_decoder_positions() - out.next_positions)
    room = room.clamp(max=options.max_len)
    tokens = out.tokens.new_full((num_rows, 1), prefix.eos)
    rows = torch.arange(num_rows, device=device)
    is_open = torch.ones_like(rows, dtype=torch.bool)
    state: dict[str, object] = {}
    texts: list[list[int]] = [[] for _ in range(num_rows)]
    for step in range(options.max_len):
        logits = model.decoder(tokens, out, state)[0][:, -1].float()
        lprobs = next_lprobs(logits, tokens, out, prefix, options, processors)
        topk, topp = [options.topk] * len(lprobs), [options.topp] * len(lprobs)
        chosen = choose_tokens(lprobs, topk, topp, draws[:, step].tolist())
        is_open = is_open & (chosen != prefix.eos)
        for row, token in zip(rows[is_open].tolist(), chosen[is_open].tolist()):
            texts[row].append(token)
        is_open = is_open & (room > step + 1)
        tokens = torch.cat([tokens, chosen.unsqueeze(1)], 1)
        # leave out prompts without open samples; their next tokens may have no position
        left = is_open.view(-1, beams).any(1).repeat_interleave(beams).nonzero().squeeze(1)
        if left.numel() == 0:
            break
        if left.numel() < rows.numel():
            out = model.encoder.reorder_encoder_out(out, left)
            model.decoder.reorder_incremental_state(state, left)
            tokens, rows, room, is_open = (x[left] for x in (tokens, rows, room, is_open))
            draws = draws[left.to(draws.device)]
    return texts
