"""Generate replies by mask-predict: all tokens at once, then the least certain ones anew."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.dialog.line_format import RESPONSE
from ..errors import UserError
from ..modules.masked_replies import read_replies
from ..modules.prefix_transformer import PrefixTransformer
from .prefix_generator import check_generation_options

# options of fairseq that have no effect here, and their defaults
_WITHOUT_EFFECT = {
    "sampling": False,
    "temperature": 1.0,
    "no_repeat_ngram_size": 0,
    "max_len_a": 0,
    "lenpen": 1,
    "unkpen": 0,
    "unnormalized": False,
    "diverse_beam_groups": -1,
    "diversity_rate": -1.0,
    "match_source_len": False,
    "prefix_size": 0,
    "score_reference": False,
    "iter_decode_eos_penalty": 0.0,
    "iter_decode_force_max_iter": False,
    "iter_decode_with_external_reranker": False,
    "retain_iter_history": False,
}


def check_mask_predict(args: Any) -> None:
    """Refuse generation options that contradict each other or have no effect.

    Args:
        args: fairseq's generation options; options that are missing have their defaults.

    Raises:
        UserError: the message contains the options, their values, the rule and the remedy.
    """
    check_generation_options(args)
    given = [n for n, default in _WITHOUT_EFFECT.items() if getattr(args, n, default) != default]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{names}: has no effect in non-autoregressive generation; leave it out")
    if getattr(args, "iter_decode_with_beam", 1) != 1:
        raise UserError(
            f"--iter-decode-with-beam {args.iter_decode_with_beam}: --beam is the number of "
            "lengths that are tried; give it instead"
        )
    refinements = getattr(args, "iter_decode_max_iter", 10)
    if refinements < 0:
        raise UserError(f"--iter-decode-max-iter {refinements}: must not be negative")


class Symbols(NamedTuple):
    """Entries of the dictionary with a meaning of their own in mask-predict."""

    hidden: int  # in place of a token that is not known yet
    pad: int
    eos: int
    first_length: int  # the entry first_length + n means a reply of n tokens
    forbidden: Collection[int]  # what replies must not contain


class MaskPredictGenerator:
    """Generator of replies with a constant number of passes.

    Source: Ghazvininejad et al. 2019, section 4. The first pass predicts all tokens, each further
    one those that are least certain, whose number falls in proportion to the passes that remain.
    Deviations: replies of different lengths are ordered by the mean log-probability of their tokens
    and of ``</s>``, which has that of the length; without it, a reply that is cut short can win.
    Probabilities are those among the entries that a reply may contain.

    Args:
        symbols: entries of the dictionary with a meaning of their own.
        passes: maximum number of passes, at least 1; short replies need fewer.
        candidates: number of lengths that are tried, at least 1.
        lengths: minimum and maximum number of tokens of a reply.
    """

    def __init__(
        self, symbols: Symbols, passes: int, candidates: int, lengths: tuple[int, int]
    ) -> None:
        self.symbols = symbols
        self.eos = symbols.eos  # under the name that fairseq's commands use
        self.passes = passes
        self.candidates = candidates
        self.shortest, self.longest = lengths

    @torch.no_grad()
    def generate(
        self, models: Sequence[Any], sample: Any, **unused: Any
    ) -> list[list[dict[str, Any]]]:
        """Return the replies to each prefix of a batch, best first, in fairseq's form.

        Args:
            models: a single ``mask_predict``.
            sample: batch whose ``net_input`` is a :class:`~fairtale.interfaces.PrefixInput`.
            unused: fairseq's forced tokens and constraints, which are refused as options.
        """
        models[0].eval()
        transformer: PrefixTransformer = models[0].transformer
        asked = sample["net_input"]
        names = ("src_tokens", "src_lengths", "positions", "segments")
        prefix = transformer.read_prefix(*(asked[name] for name in names))
        lprobs, lengths = self._lengths(transformer.logits(prefix.features))
        places = torch.arange(int(lengths.max()), device=lengths.device)
        real = places < lengths.unsqueeze(2)  # [B, K, T]
        tokens = torch.full(real.shape, self.symbols.pad, device=lengths.device)
        tokens[real] = self.symbols.hidden
        scores = torch.full(real.shape, torch.inf, device=lengths.device)
        hides = real
        for left in reversed(range(self.passes)):
            features = read_replies(transformer, tokens, real, RESPONSE, prefix)[hides[real]]
            scores[hides], tokens[hides] = self._guess(transformer.logits(features))
            unsure = lengths * left // self.passes
            if not unsure.any():
                break
            hides = scores.argsort(2).argsort(2) < unsure.unsqueeze(2)  # padding is never unsure
            tokens = tokens.masked_fill(hides, self.symbols.hidden)
        ends = lengths.unsqueeze(2)
        tokens = F.pad(tokens, (0, 1)).scatter(2, ends, self.eos)
        scores = F.pad(scores, (0, 1), value=torch.inf).scatter(2, ends, lprobs.unsqueeze(2))
        return self._replies(tokens, scores, lengths)

    def _lengths(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the most probable lengths from logits [B, V].

        Returns:
            Their log-probabilities, fp32, and the lengths, int64, both [B, K].
        """
        first = self.symbols.first_length
        logits = logits[:, first + self.shortest : first + self.longest + 1].float()
        best, lengths = logits.log_softmax(1).topk(min(self.candidates, logits.size(1)))
        return best, lengths + self.shortest

    def _guess(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (fp32) and indices of the best tokens, [N], from [N, V]."""
        logits = logits.float()
        logits[:, list(self.symbols.forbidden)] = -torch.inf
        best, tokens = logits.max(1)
        return best - logits.logsumexp(1), tokens

    def _replies(
        self, tokens: Tensor, scores: Tensor, lengths: Tensor
    ) -> list[list[dict[str, Any]]]:
        """Return the replies of each row, best first; all arguments are [B, K, ...]."""
        mean = scores.masked_fill(scores.isinf(), 0).sum(2) / (lengths + 1)
        replies: list[list[dict[str, Any]]] = []
        for row, order in enumerate(mean.argsort(1, descending=True).tolist()):
            replies.append([])
            for k in order:
                n = int(lengths[row, k]) + 1
                hypo = {"tokens": tokens[row, k, :n], "positional_scores": scores[row, k, :n]}
                replies[-1].append({**hypo, "score": mean[row, k], "alignment": None})
        return replies
