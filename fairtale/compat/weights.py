"""Check the weights of a checkpoint before a verb makes another checkpoint from them."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import UserError

logger = logging.getLogger(__name__)

_AVERAGES = "ema"  # beginning of the names under which fairseq stores averages of the weights


def refuse_broken_weights(path: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers, which nothing later would report.

    Args:
        path: the checkpoint, for the message.
        weights: its weights.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"{path}: {name} holds NaN or infinite numbers, so the training has failed; use an "
                "earlier checkpoint"
            )


def without_averages(path: str, state: Mapping[str, Any], done: str) -> dict[str, Any]:
    """Return the ``extra_state`` of a checkpoint without averaged weights, and log that.

    fairseq keeps them with ``--store-ema``, beside the weights. They have the old shapes, or belong
    to one of several checkpoints.

    Args:
        path: the checkpoint, for the message.
        state: content of the checkpoint.
        done: what happens to the weights, as in "pruned".
    """
    extra: dict[str, Any] = dict(state.get("extra_state") or {})
    found = [name for name in extra if name.startswith(_AVERAGES)]
    if found:
        logger.warning(
            "%s also holds averaged weights (--store-ema): they are left out, only its weights are "
            "%s",
            path,
            done,
        )
    return {name: value for name, value in extra.items() if name not in found}
