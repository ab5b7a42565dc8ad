"""Re-rank replies by the probability of the query given the reply."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils
from torch import Tensor

from ..errors import UserError
from ..modules.chunked_loss import chunk_rows

MAX_TOKENS = 8192  # most tokens in a batch of pairs, padding included
LOGITS_MIB = 64  # most MiB of fp32 logits at a time; the log-probabilities need the same again
MIN_ROWS = 64  # least rows that are projected at a time, even if their logits exceed LOGITS_MIB


class MMIReranker:
    """Re-rank n-best replies by (1 - W) log P(reply | context) + W log P(query | reply).

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function", MMI-bidi. Both terms are
    normalised like the generator's scores: means per token with the same length penalty, or sums
    with ``--unnormalized``. W = 0 therefore keeps the generator's order.

    Args:
        path: checkpoint trained with ``--reverse``.
        weight: W, 0 to 1.
        data: data folder; the reverse model must have been trained with its dictionary.
        len_penalty: exponent of the length; None for sums.

    Raises:
        UserError: the checkpoint is not a reverse model or has another dictionary, or W is outside
            [0, 1].
    """

    def __init__(self, path: str, weight: float, data: str, len_penalty: float | None) -> None:
        if not 0 <= weight <= 1:
            raise UserError(f"--mmi-weight {weight}: must lie between 0 and 1")
        try:
            models, _, self.task = checkpoint_utils.load_model_ensemble_and_task(
                [path], arg_overrides={"data": data}
            )
        except UserError as error:
            raise UserError(f"--mmi-path {path}: {error}") from None
        if not getattr(self.task, "is_reverse", False):
            raise UserError(f"--mmi-path {path}: not a reverse model; train it with --reverse")
        self.model = models[0].eval()
        self.weight = weight
        self.len_penalty = len_penalty

    @torch.no_grad()
    def score(self, queries: Sequence[Tensor], replies: Sequence[Tensor]) -> Tensor:
        """Return log P(query | reply) of n pairs, fp32 [n].

        If a query is longer than the ``max_target_positions`` of the reverse model, only its first
        ``max_target_positions`` tokens are scored and counted.

        Args:
            queries: int64 tensors without EOS tokens.
            replies: int64 tensors without EOS tokens, one for each query.
        """
        sep = self.task.sep
        prefixes = [torch.cat([reply, reply.new_tensor([sep])]) for reply in replies]
        eos = self.task.dictionary.eos()
        responses = [torch.cat([query, query.new_tensor([eos])]) for query in queries]
        dataset = self.task.build_pairs(prefixes, responses)
        pairs = [dataset[i] for i in range(len(dataset))]
        totals = torch.zeros(len(pairs))
        lengths = torch.zeros(len(pairs))
        for rows in _batches(pairs):
            totals[rows], lengths[rows] = self._sums(dataset.collater([pairs[i] for i in rows]))
        return totals if self.len_penalty is None else totals / lengths**self.len_penalty

    def _sums(self, batch: Any) -> Tensor:
        """Return the sum of log P over each pair's response, and its token count, fp32 [2, n]."""
        device = next(self.model.parameters()).device
        batch = utils.move_to_cuda(batch) if device.type == "cuda" else batch
        batch = self.task.response_view(batch)
        features = self.model(**batch["net_input"], features_only=True)[0][0]  # [N, C]
        weight = self.model.output_weight()
        scored = batch["response_mask"][0].nonzero().squeeze(1)
        features, target = features[scored], batch["target"][0, scored]
        own = torch.empty(len(scored), device=device)
        step = chunk_rows(len(scored), weight.size(0) * own.itemsize, LOGITS_MIB, MIN_ROWS)
        for start in range(0, len(scored), step):
            chunk = slice(start, start + step)
            logits = F.linear(features[chunk], weight).float()
            own[chunk] = -F.cross_entropy(logits, target[chunk], reduction="none")
        sample = batch["sample_index"][0, scored]
        sums = own.new_zeros(2, batch["nsentences"])
        sums.index_add_(1, sample, torch.stack([own, torch.ones_like(own)]))
        cpu: Tensor = sums.cpu()
        return cpu

    def rerank(
        self, queries: Sequence[Tensor], hypos: Sequence[Sequence[dict[str, Any]]]
    ) -> list[list[dict[str, Any]]]:
        """Sort the hypotheses of each sentence by the combined score.

        Args:
            queries: int64 tensors, one for each sentence.
            hypos: fairseq's lists of hypotheses, one for each sentence. Each hypothesis gets the
                keys ``forward_score`` and ``reverse_score``, and its ``score`` is replaced.

        Returns:
            The sorted lists, the best hypothesis first.
        """
        eos = self.task.dictionary.eos()
        flat = [(q, h) for q, group in zip(queries, hypos) for h in group]
        replies = [h["tokens"][h["tokens"] != eos].to("cpu") for _, h in flat]
        scores = self.score([q.to("cpu") for q, _ in flat], replies).tolist()
        for (_, hypo), reverse in zip(flat, scores):
            hypo["forward_score"] = float(hypo["score"])
            hypo["reverse_score"] = reverse
            combined = (1 - self.weight) * hypo["forward_score"] + self.weight * reverse
            hypo["score"] = torch.as_tensor(combined)
        return [sorted(group, key=lambda h: -float(h["score"])) for group in hypos]


def _batches(pairs: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Sort pairs by length and return the indices of batches of at most ``MAX_TOKENS`` tokens."""
    sizes = np.array([pair["prefix"] + pair["response"] for pair in pairs], dtype=np.int64)
    batches = data_utils.batch_by_size(
        np.argsort(sizes, kind="stable"),
        sizes.__getitem__,
        num_tokens_vec=np.sort(sizes),
        max_tokens=max(MAX_TOKENS, sizes.max(initial=0)),
    )
    return [batch.tolist() for batch in batches]
