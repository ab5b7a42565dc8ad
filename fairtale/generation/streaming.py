"""Sample one text token by token, and show it as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from ..interfaces import PrefixInput
from ..modules.ngram_blocking import block_repeated_ngrams
from .options import DecodingOptions
from .processors import Processor

if TYPE_CHECKING:  # fairseq is imported after ``plugin.register`` has cured it
    from ..modules.prefix_encoder_decoder import PrefixDecoder, PrefixEncoder

_COLDEST = 1e-30  # as good as 0, and its inverse still is an fp32 number


class PrefixModel(Protocol):
    """A prefix language model, ``gpt`` or ``unilm_seq2seq``."""

    encoder: PrefixEncoder
    decoder: PrefixDecoder

    def max_decoder_positions(self) -> int:
        """Return how many positions there are."""
        ...


class Prefix(NamedTuple):
    """What one text continues."""

    net_input: PrefixInput  # of one row [1, S]
    eos: int  # the token that ends the text
    forbidden: Sequence[int]  # tokens that the text never holds


def choose_token(
    lprobs: Tensor, topk: int, topp: float, generator: torch.Generator | None = None
) -> int:
    """Draw a token from log-probabilities [V]: from the k best, or from the nucleus.

    They are normalised to sum to 1 first, since masks may have left less than the smallest float.

    Args:
        lprobs: log-probabilities [V].
        topk: how many of the best; 1 is greedy, 0 or less is all.
        topp: smallest set of at least this probability (Holtzman et al. 2020); 1 or more, or
            0 or less, is all.
        generator: source of random numbers; None for torch's global one.
    """
    probs = lprobs.float().softmax(-1)
    if topk > 0:
        values, tokens = probs.topk(min(topk, probs.numel()))
    else:
        values, tokens = probs.sort(descending=True)
    if 0 < topp < 1:
        before = values.cumsum(0) - values
        values = values.masked_fill(before >= topp, 0.0)
    return int(tokens[torch.multinomial(values, 1, generator=generator)])


@torch.no_grad()
def stream_tokens(
    model: PrefixModel,
    prefix: Prefix,
    options: DecodingOptions,
    processors: Sequence[Processor] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield the tokens of one text as they are drawn, without the end mark.

    The text ends at ``options.max_len`` tokens, or earlier where the model's positions end.

    Args:
        model: in evaluation mode.
        prefix: on the model's device.
        options: ``block_context_ngram`` and ``seed`` are left to the caller, who passes them as
            ``processors`` and ``generator``.
        processors: change the log-probabilities of each token, in this order.
        generator: source of random numbers; None for torch's global one.
    """
    temperature = max(options.temperature, _COLDEST)
    out = model.encoder(**prefix.net_input)
    tokens = prefix.net_input["src_tokens"].new_full((1, 1), prefix.eos)
    state: dict[str, object] = {}
    room = model.max_decoder_positions() - int(out.next_positions[0])
    for step in range(min(options.max_len, room)):
        logits = model.decoder(tokens, out, state)[0][:, -1].float()
        # before anything else, so that a token remains: processors and the blocking of n-grams
        # leave one that they find, and the likeliest has log-probability 0 at any temperature
        masked = [*prefix.forbidden, prefix.eos] if step < options.min_len else [*prefix.forbidden]
        logits = logits.index_fill(1, tokens.new_tensor(masked), -torch.inf)
        lprobs = ((logits - logits.amax(1, keepdim=True)) / temperature).log_softmax(-1)
        for process in processors:
            lprobs = process(lprobs, tokens, out)
        if options.no_repeat_ngram_size:
            lprobs = block_repeated_ngrams(tokens[:, 1:], lprobs, options.no_repeat_ngram_size)
        token = choose_token(lprobs[0], options.topk, options.topp, generator)
        if token == prefix.eos:
            return
        yield token
        tokens = torch.cat([tokens, tokens.new_full((1, 1), token)], 1)


def text_as_it_grows(tokens: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Yield what each token adds to the text, whole characters only.

    Bytes that are not a character yet are held back until they are, or until the end.

    Args:
        tokens: token ids.
        decode: turns a list of token ids into text.
    """
    seen: list[int] = []
    shown = ""
    for token in tokens:
        seen.append(token)
        text = decode(seen)
        if text.endswith("\ufffd") or not text.startswith(shown):
            continue
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = decode(seen) if seen else ""
    if text.startswith(shown) and len(text) > len(shown):
        yield text[len(shown) :]
