"""Checkpoints that do not match the model."""

import pytest
import torch
from fairseq.models import BaseFairseqModel

from fairtale.errors import UserError


def test_gates_are_not_lost():
    class Model(BaseFairseqModel):
        pass

    class Gated(Model):
        def gates(self):
            return {}

    state = {"encoder.layers.0.self_attn.gate.log_alpha": torch.zeros(2)}
    with pytest.raises(UserError, match="has gates and Model has none"):
        Model().upgrade_state_dict(state)
    Gated().upgrade_state_dict(state)
    Model().upgrade_state_dict({"encoder.weight": torch.zeros(2)})
