"""Hide tokens of replies, which a non-autoregressive model learns to restore."""

from typing import cast

import torch

from ...interfaces import DialogBatch
from .line_format import RESPONSE

# A prefix's last token, <SEP>, predicts the number n of the reply's tokens. Its target is the entry
# FIRST_LENGTH + n of the dictionary, so lengths need no parameters of their own. The four entries
# before are those of fairseq's special symbols, of which padding cannot be a target.
FIRST_LENGTH = 4


def hide_replies(sample: DialogBatch, hidden: int, pad: int) -> DialogBatch:
    """Hide a random share of each reply in a packed batch; the hidden tokens are the targets.

    The share of a reply is uniform between 0 and 1, so each number of hidden tokens is equally
    likely. Source: Ghazvininejad et al. 2019, section 3.1. Deviation: none may be hidden, too; then
    only the length is predicted.

    Args:
        sample: packed batch. An empty batch, which fairseq gives to a worker without data, is
            returned unchanged.
        hidden: the token in place of hidden ones.
        pad: padding token, the target where nothing is predicted.
    """
    if "response_mask" not in sample:
        return sample
    net_input = sample["net_input"]
    tokens, lengths = net_input["src_tokens"], net_input["sides"]["response_lengths"]
    share = torch.rand(len(lengths), device=tokens.device)[sample["sample_index"]]
    hides = torch.rand(tokens.shape, device=tokens.device) < share
    hides &= net_input["segments"] == RESPONSE
    target = tokens.masked_fill(~hides, pad)
    total = lengths + net_input["sides"]["prefix_lengths"]
    target[0, total.cumsum(0) - lengths - 1] = FIRST_LENGTH + lengths
    view = {**sample, "target": target}
    view["net_input"] = {**net_input, "src_tokens": tokens.masked_fill(hides, hidden)}
    del view["nbytes"]  # the loss is not that of the whole text
    return cast(DialogBatch, view)
