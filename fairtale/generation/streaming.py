"""Writing one continuation token by token, for somebody who watches."""

from typing import Iterator, Optional

import torch
from torch import Tensor

from ..errors import UserError
from ..modules.ngram_blocking import block_repeated_ngrams

_COLDEST = 1e-30  # as good as 0, and its inverse still is an fp32 number


def choose_token(
    lprobs: Tensor, topk: int, topp: float, generator: Optional[torch.Generator] = None
) -> int:
    """Draw a token from log-probabilities [V]: of the k best, or of the nucleus.

    They are made to sum to 1 first: what masks have left of them may be less than the
    smallest float.

    Args:
        topk: how many; 1 is greedy, 0 or less all.
        topp: smallest set of at least this probability (Holtzman et al. 2020); 1 or more, or
            0 or less, is all.
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
    model,
    net_input: dict,
    eos: int,
    max_len: int,
    forbidden: tuple = (),
    topk: int = 10,
    topp: float = 1.0,
    temperature: float = 1.0,
    min_len: int = 1,
    no_repeat_ngram: int = 0,
    processors: tuple = (),
    generator: Optional[torch.Generator] = None,
) -> Iterator[int]:
    """Yield the tokens of one continuation as they are drawn, without the end mark.

    Args:
        model: a prefix language model in evaluation mode.
        net_input: one prefix [1, S], as the encoder takes it.
        max_len: most tokens; fewer if the positions end.
        forbidden: tokens that are never drawn.
        temperature: divides the logits, > 0.
        no_repeat_ngram: no n-gram of the continuation is repeated; 0: off.
        processors: as of :class:`~fairtale.generation.prefix_generator.PrefixGenerator`.

    Raises:
        UserError: ``temperature`` is not positive.
    """
    if not temperature > 0:
        raise UserError(f"--temperature {temperature}: must be > 0; --topk 1 is greedy")
    temperature = max(temperature, _COLDEST)
    prefix = model.encoder(**net_input)
    tokens = net_input["src_tokens"].new_full((1, 1), eos)
    state: dict = {}
    room = model.max_decoder_positions() - int(prefix.next_positions[0])
    for step in range(min(max_len, room)):
        logits = model.decoder(tokens, prefix, state)[0][:, -1].float()
        # before anything else, so that a token remains: processors and the blocking of n-grams
        # leave one that they find, and the likeliest has log-probability 0 at any temperature
        masked = [*forbidden, eos] if step < min_len else [*forbidden]
        logits = logits.index_fill(1, tokens.new_tensor(masked), -torch.inf)
        lprobs = ((logits - logits.amax(1, keepdim=True)) / temperature).log_softmax(-1)
        for process in processors:
            lprobs = process(lprobs, tokens, prefix)
        if no_repeat_ngram:
            lprobs = block_repeated_ngrams(tokens[:, 1:], lprobs, no_repeat_ngram)
        token = choose_token(lprobs[0], topk, topp, generator)
        if token == eos:
            return
        yield token
        tokens = torch.cat([tokens, tokens.new_full((1, 1), token)], 1)


def text_as_it_grows(tokens, decode) -> Iterator[str]:
    """Yield what each token adds to the text; half a character waits for its other half.

    Args:
        tokens: iterable of token ids.
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
