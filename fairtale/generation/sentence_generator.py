"""Translate a batch of sentences with fairseq's generator, where each has rules of its own.

fairseq's options of generation apply to a whole batch. Here each sentence has its own limits,
changes of logits and random numbers, so requests with different options share a batch, and the
translation of a sentence does not depend on its neighbours (but for rounding, which depends on the
sizes of matrices).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from fairseq import search
from fairseq.data import Dictionary
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from .batch_sampling import uniform_draws
from .row_sampling import TokenLogprobs, choose_tokens

_COLDEST = 1e-30  # least temperature: practically 0, but its inverse is finite in fp32


class Sampling(NamedTuple):
    """How a sentence is sampled."""

    temperature: float  # divisor of the logits, above 0
    topk: int  # number of the most probable tokens to choose from; -1 for all tokens
    topp: float  # probability of the nucleus; 1 for all tokens
    seed: int


@dataclass(frozen=True)
class SentenceRules:
    """Rules of one translation.

    Args:
        max_len: maximum number of tokens without the EOS token, at least 1.
        min_len: minimum number of tokens, 1 to ``max_len``.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens that
            the translation contains (Keskar et al. 2019, section 4.1); 1 changes nothing.
        bias: token -> number that is added to its logit.
        sampling: None for beam search.
    """

    max_len: int
    min_len: int = 1
    repetition_penalty: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    sampling: Sampling | None = None


class Translation(NamedTuple):
    """The best translation of a sentence."""

    tokens: list[int]  # without the EOS token
    is_full: bool  # it has the maximum length, so its EOS token was not chosen


class _RuledModel(EnsembleModel):
    """One model whose log-probabilities follow the rules of each sentence.

    Args:
        model: an encoder-decoder model.
        eos: the EOS token.
        rules: the rules of B sentences.
        on_step: called before every step; returns the sentences to abandon, and may raise.
    """

    rows: Tensor  # int64 [R]: the sentence of each row that is still in the batch

    def __init__(
        self,
        model: Any,
        eos: int,
        rules: Sequence[SentenceRules],
        on_step: Callable[[], Collection[int]],
    ) -> None:
        super().__init__([model])
        self.eos = eos
        self.rules = rules
        self.on_step = on_step
        device = next(model.parameters()).device
        self._max_len = torch.tensor([rule.max_len for rule in rules], device=device)
        self._min_len = torch.tensor([rule.min_len for rule in rules], device=device)
        penalties = [rule.repetition_penalty for rule in rules]
        self._penalty = None
        if any(penalty != 1 for penalty in penalties):
            self._penalty = torch.tensor(penalties, device=device).unsqueeze(1)
        # for each token with a bias: its sentence, the token and its bias
        biases = [(i, *pair) for i, rule in enumerate(rules) for pair in rule.bias.items()]
        self._biases = [torch.tensor(part, device=device) for part in zip(*biases)]

    def forward_encoder(self, net_input: dict[str, Tensor]) -> Any:
        tokens = net_input["src_tokens"]
        self.rows = torch.arange(len(tokens), device=tokens.device)
        return super().forward_encoder(net_input)

    def reorder_encoder_out(self, encoder_outs: Any, new_order: Tensor) -> Any:
        self.rows = self.rows[new_order]
        return super().reorder_encoder_out(encoder_outs, new_order)

    def forward_decoder(
        self,
        tokens: Tensor,
        encoder_outs: list[Any],
        incremental_states: list[Any],
        temperature: float = 1.0,
    ) -> tuple[Tensor, None]:
        """Return the log-probabilities of the next tokens, fp32 [R, V]."""
        abandoned = self.on_step()
        out = self.single_model.decoder(tokens, encoder_outs[0], incremental_states[0])
        logits = _logits(self.single_model, out)[:, -1]
        lprobs = self._changed(logits, tokens[:, 1:]).log_softmax(-1)
        step = tokens.size(1) - 1
        is_short = step < self._min_len[self.rows]
        is_full = step >= self._max_len[self.rows]
        if abandoned and step:  # at the first step, the search only looks at one row
            gone = torch.tensor(sorted(abandoned), device=tokens.device)
            is_full = is_full | torch.isin(self.rows, gone)
            is_short = is_short & ~is_full
        eos = lprobs[:, self.eos].masked_fill(is_short, -torch.inf)
        lprobs = lprobs.masked_fill(is_full.unsqueeze(1), -torch.inf)
        lprobs[:, self.eos] = eos
        return lprobs, None

    def _changed(self, logits: Tensor, written: Tensor) -> Tensor:
        """Return the logits [R, V] with the penalties and then the biases of the sentences.

        Args:
            logits: fp32 [R, V].
            written: the tokens of the translations so far, int64 [R, t].
        """
        if self._penalty is not None:
            penalty = self._penalty[self.rows]
            found = logits.gather(1, written)
            found = torch.where(found > 0, found / penalty, found * penalty)
            logits = logits.scatter(1, written, found)
        if self._biases:
            sentences, tokens, values = self._biases
            hits = self.rows.unsqueeze(1) == sentences  # [R, N]
            rows, numbers = hits.nonzero(as_tuple=True)
            logits = logits.index_put((rows, tokens[numbers]), values[numbers], accumulate=True)
        return logits


def _logits(model: Any, decoder_out: Any) -> Tensor:
    """Return the logits of a decoder, fp32 [R, T, V]."""
    if getattr(model.decoder, "adaptive_softmax", None) is not None:
        # it has no logits; log-probabilities are logits of the same distribution
        lprobs: Tensor = model.get_normalized_probs(decoder_out, log_probs=True)
        return lprobs
    logits: Tensor = decoder_out[0]
    return logits.float()


class _RowSampling(search.Search):
    """Sample each row as its sentence says, with random numbers of its own."""

    def __init__(self, dictionary: Dictionary, samplings: Sequence[Sampling], count: int) -> None:
        super().__init__(dictionary)
        self.samplings = samplings
        self.draws = uniform_draws([sampling.seed for sampling in samplings], count)

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor,
        prev_output_tokens: Tensor | None = None,
        original_batch_idxs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, token and beam of each row, each [B, 1]."""
        assert original_batch_idxs is not None
        sentences = original_batch_idxs.tolist()
        rows = lprobs.squeeze(1)
        samplings = [self.samplings[sentence] for sentence in sentences]
        # subtracting the maximum first keeps it finite at the lowest temperatures
        heat = rows.new_tensor([max(each.temperature, _COLDEST) for each in samplings])
        scores_of_rows = (rows - rows.amax(1, keepdim=True)) / heat.unsqueeze(1)
        chosen = choose_tokens(
            scores_of_rows,
            [each.topk for each in samplings],
            [each.topp for each in samplings],
            self.draws[sentences, step].tolist(),
        ).unsqueeze(1)
        found = rows.gather(1, chosen)
        if step:
            found = found + scores[:, :, step - 1]
        return found, chosen, torch.zeros_like(chosen)


class SentenceGenerator(SequenceGenerator):
    """fairseq's beam search or sampling of a batch, in which each sentence has its own rules.

    A generator serves one batch. The sentences of a batch are all sampled, or none is.

    Args:
        model: an encoder-decoder model in evaluation mode.
        tgt_dict: fairseq's dictionary of the target language.
        rules: the rules of the B sentences.
        beam: beam size; sampled sentences have one hypothesis.
        lenpen: length penalty; scores are divided by length ** lenpen.
        on_step: called before every step; returns the sentences to abandon, and may raise an
            exception to end the batch. An abandoned sentence leaves the batch at the next step.
        on_end: called with a sentence and its translation as soon as it is finished, and also for
            an abandoned one.
    """

    model: _RuledModel

    def __init__(
        self,
        model: Any,
        tgt_dict: Dictionary,
        rules: Sequence[SentenceRules],
        beam: int,
        lenpen: float,
        on_step: Callable[[], Collection[int]],
        on_end: Callable[[int, Translation], None],
    ) -> None:
        longest = max(rule.max_len for rule in rules)
        samplings = [rule.sampling for rule in rules if rule.sampling is not None]
        assert len(samplings) in (0, len(rules)), "a batch is sampled as a whole, or not at all"
        super().__init__(
            _RuledModel(model, tgt_dict.eos(), rules, on_step),
            tgt_dict,
            beam_size=1 if samplings else beam,
            max_len_b=longest,
            len_penalty=lenpen,
            search_strategy=_RowSampling(tgt_dict, samplings, longest + 1) if samplings else None,
        )
        self._on_end = on_end

    def translate(self, net_input: dict[str, Tensor]) -> None:
        """Translate a batch; the translations go to ``on_end``.

        Args:
            net_input: ``src_tokens`` int64 [B, S] and ``src_lengths`` int64 [B].
        """
        with torch.no_grad():
            self._generate({"net_input": net_input})

    def finalize_hypos(self, *args: Any) -> list[int]:
        """Collect finished hypotheses, and hand over the translations that are complete."""
        newly_finished: list[int] = super().finalize_hypos(*args)
        finalized = args[5]  # the hypotheses of each sentence
        for index in newly_finished:
            sentence = int(self.model.rows[index * self.beam_size])
            found = finalized[sentence]
            scores = torch.tensor([float(hypothesis["score"]) for hypothesis in found])
            best = found[int(torch.sort(scores, descending=True)[1][0])]
            tokens = best["tokens"][:-1].tolist()
            is_full = len(tokens) >= self.model.rules[sentence].max_len
            self._on_end(sentence, Translation(tokens, is_full))
        return newly_finished


class TokenScore(NamedTuple):
    """A token of a translation, and log-probabilities at its place."""

    token: int
    found: TokenLogprobs


@torch.no_grad()
def score_tokens(
    model: Any, net_input: dict[str, Tensor], tokens: Sequence[int], eos: int, top: int
) -> list[TokenScore]:
    """Return the log-probabilities of the tokens of a translation, without any rules.

    Args:
        model: an encoder-decoder model in evaluation mode.
        net_input: ``src_tokens`` int64 [1, S] and ``src_lengths`` int64 [1].
        tokens: the translation without the EOS token.
        eos: the EOS token, which begins every translation.
        top: number of the most probable tokens to return for each place.
    """
    if not tokens:
        return []
    target = net_input["src_tokens"].new_tensor([tokens])
    previous = torch.cat([target.new_full((1, 1), eos), target[:, :-1]], 1)
    out = model(**net_input, prev_output_tokens=previous)
    lprobs = _logits(model, out)[0].log_softmax(-1)  # [T, V]
    found = lprobs.gather(1, target.t()).squeeze(1).tolist()
    values, entries = lprobs.topk(min(top, lprobs.size(1)))
    pairs = [list(zip(*row)) for row in zip(entries.tolist(), values.tolist())]
    return [TokenScore(t, TokenLogprobs(*each)) for t, *each in zip(tokens, found, pairs)]
