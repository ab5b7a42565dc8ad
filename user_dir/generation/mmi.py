"""Re-ranking of replies by how well they predict the query."""

import torch
from fairseq import checkpoint_utils, utils

from ..errors import UserError


class MMIReranker:
    """Orders n-best replies by (1 - W) log P(reply | context) + W log P(query | reply).

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function", MMI-bidi. Both parts
    are as the generator scores: mean per token with the same length penalty, or sums with
    ``--unnormalized``, so W = 0 keeps the generator's order.

    Args:
        path: checkpoint trained with ``--reverse``.
        weight: W, 0 to 1.
        data: data folder, whose dictionary the reverse model must share.
        len_penalty: exponent of the length; None for sums.

    Raises:
        UserError: not a reverse model, another dictionary, or W outside [0, 1].
    """

    def __init__(self, path, weight: float, data: str, len_penalty):
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
    def score(self, queries, replies):
        """Return log P(query | reply) for pairs of int64 tensors without end marks, [n]."""
        sep = self.task.sep
        prefixes = [torch.cat([reply, reply.new_tensor([sep])]) for reply in replies]
        eos = self.task.dictionary.eos()
        responses = [torch.cat([query, query.new_tensor([eos])]) for query in queries]
        dataset = self.task.build_pairs(prefixes, responses)
        batch = dataset.collater([dataset[i] for i in range(len(dataset))])
        device = next(self.model.parameters()).device
        batch = utils.move_to_cuda(batch) if device.type == "cuda" else batch
        batch = self.task.response_view(batch)
        logits = self.model(**batch["net_input"])[0]
        lprobs = logits.float().log_softmax(-1)[0]  # [N, V]
        target = batch["target"][0]
        own = lprobs.gather(1, target.unsqueeze(1)).squeeze(1)
        own = own.masked_fill(~batch["response_mask"][0], 0.0)
        total = own.new_zeros(len(queries)).index_add_(0, batch["sample_index"][0], own)
        if self.len_penalty is None:
            return total
        lengths = torch.tensor([len(q) + 1.0 for q in queries], device=total.device)
        return total / lengths**self.len_penalty

    def rerank(self, queries, hypos):
        """Sort each sentence's hypotheses; each gains ``forward_score`` and ``reverse_score``.

        Args:
            queries: int64 tensors, one a sentence.
            hypos: fairseq's lists of hypotheses, one a sentence.
        """
        eos = self.task.dictionary.eos()
        device = next(self.model.parameters()).device
        flat = [(q, h) for q, group in zip(queries, hypos) for h in group]
        replies = [h["tokens"][h["tokens"] != eos].to("cpu") for _, h in flat]
        scores = self.score([q.to("cpu") for q, _ in flat], replies).to(device).tolist()
        for (_, hypo), reverse in zip(flat, scores):
            hypo["forward_score"] = float(hypo["score"])
            hypo["reverse_score"] = reverse
            combined = (1 - self.weight) * hypo["forward_score"] + self.weight * reverse
            hypo["score"] = torch.as_tensor(combined)
        return [sorted(group, key=lambda h: -float(h["score"])) for group in hypos]
