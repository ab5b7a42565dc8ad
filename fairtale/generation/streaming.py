"""Sample one text token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from ..interfaces import PrefixInput
from ..modules.ngram_blocking import block_repeated_ngrams
from .options import DecodingOptions
from .processors import Processor
from .row_sampling import choose_tokens, divide_by_temperature

if TYPE_CHECKING:  # this import loads fairseq, which must follow ``plugin.register``
    from ..modules.prefix_encoder_decoder import PrefixDecoder, PrefixEncoder, PrefixEncoderOut


class PrefixModel(Protocol):
    """A prefix language model, ``gpt`` or ``unilm_seq2seq``."""

    encoder: PrefixEncoder
    decoder: PrefixDecoder

    def max_decoder_positions(self) -> int:
        """Return the number of positions, those of the prefix included."""
        ...


class Prefix(NamedTuple):
    """A prefix, and the special tokens of its continuation."""

    net_input: PrefixInput  # one row, [1, S]
    eos: int  # the token that ends the text
    forbidden: Sequence[int]  # tokens that the text must not contain


def choose_token(
    lprobs: Tensor, topk: int, topp: float, generator: torch.Generator | None = None
) -> int:
    """Sample a token from the k most probable tokens, or from the nucleus.

    Args:
        lprobs: log-probabilities [V].
        topk, topp: as in :func:`~fairtale.generation.row_sampling.choose_tokens`.
        generator: random number generator; None for torch's global one on the CPU.
    """
    device = "cpu" if generator is None else generator.device
    draw = torch.rand(1, generator=generator, dtype=torch.float64, device=device)
    return int(choose_tokens(lprobs.unsqueeze(0), [topk], [topp], draw.tolist()))


def next_lprobs(
    logits: Tensor,
    tokens: Tensor,
    out: PrefixEncoderOut,
    prefix: Prefix,
    options: DecodingOptions,
    processors: Sequence[Processor],
) -> Tensor:
    """Return the log-probabilities of the next tokens, as the options change them, fp32 [R, V].

    Args:
        logits: fp32 [R, V].
        tokens: the initial EOS token and the t generated tokens, int64 [R, 1 + t].
        out: output of the encoder for the prefixes.
        prefix: the prefixes, for their special tokens.
        options, processors: as in :func:`stream_tokens`.
    """
    # mask first, so that at least one token stays possible: processors and the n-gram blocking
    # keep one of the tokens that they receive
    masked = [*prefix.forbidden]
    if tokens.size(1) - 1 < options.min_len:
        masked.append(prefix.eos)
    logits = logits.index_fill(1, tokens.new_tensor(masked), -torch.inf)
    lprobs = divide_by_temperature(logits, options.temperature).log_softmax(-1)
    for process in processors:
        lprobs = process(lprobs, tokens, out)
    if options.no_repeat_ngram_size:
        lprobs = block_repeated_ngrams(tokens[:, 1:], lprobs, options.no_repeat_ngram_size)
    return lprobs


@torch.no_grad()
def stream_tokens(
    model: PrefixModel,
    prefix: Prefix,
    options: DecodingOptions,
    processors: Sequence[Processor] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield the tokens of one text as they are sampled, without the EOS token.

    The text has at most ``options.max_len`` tokens, or fewer if the model has no more positions.

    Args:
        model: prefix language model in evaluation mode.
        prefix: prefix to continue, on the model's device.
        options: decoding options. ``block_context_ngram`` and ``seed`` are ignored; the caller
            passes a processor and a generator for them.
        processors: functions that change the log-probabilities of the next tokens, in this order.
        generator: random number generator; None for torch's global one.
    """
    out = model.encoder(**prefix.net_input)
    tokens = prefix.net_input["src_tokens"].new_full((1, 1), prefix.eos)
    state: dict[str, object] = {}
    room = model.max_decoder_positions() - int(out.next_positions[0])
    for _ in range(min(options.max_len, room)):
        logits = model.decoder(tokens, out, state)[0][:, -1].float()
        lprobs = next_lprobs(logits, tokens, out, prefix, options, processors)
        token = choose_token(lprobs[0], options.topk, options.topp, generator)
        if token == prefix.eos:
            return
        yield token
        tokens = torch.cat([tokens, tokens.new_full((1, 1), token)], 1)
