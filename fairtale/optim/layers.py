"""Name the layers of a model, for learning rates of their own and for freezing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairseq.models.transformer import TransformerModelBase
from fairseq.models.transformer_lm import TransformerLanguageModel
from torch import nn

from ..errors import UserError
from ..interfaces import NamesLayers

LayerGroups = list[tuple[str, list[nn.Parameter]]]

# parts of fairseq's encoders and decoders that precede the layers
_BELOW = ("embed_tokens", "embed_positions", "layernorm_embedding", "project_in_dim", "quant_noise")


def layers_of(model: nn.Module) -> LayerGroups:
    """Return names and parameters of the embeddings, of each layer and of the top of a model.

    See :class:`~fairtale.interfaces.NamesLayers`. fairseq's own ``transformer`` and
    ``transformer_lm`` do not name their layers, so this function does it for them.

    Args:
        model: model without wrappers.

    Raises:
        UserError: the model does not name its layers.
    """
    if isinstance(model, NamesLayers):
        groups = model.layer_groups()
    elif isinstance(model, (TransformerModelBase, TransformerLanguageModel)):
        groups = transformer_layer_groups(model)
    else:
        raise UserError(
            f"{type(model).__name__} does not name its layers, so they cannot be frozen or have "
            "learning rates of their own: use gpt, unilm_seq2seq, transformer_hcg, transformer or "
            "transformer_lm, or give the model a method layer_groups() "
            "(fairtale/interfaces.py, NamesLayers)"
        )
    named = [id(p) for _, parameters in groups for p in parameters]
    missing = [name for name, p in model.named_parameters() if id(p) not in set(named)]
    if missing or len(named) != len(set(named)):
        raise UserError(
            f"layer_groups() of {type(model).__name__} must contain each parameter once, "
            f"but lacks {', '.join(missing) or 'none and repeats some'}: correct the method"
        )
    return groups


def transformer_layer_groups(model: Any) -> LayerGroups:
    """Return the groups of a fairseq transformer with a decoder and perhaps an encoder.

    The encoder's layers come first, and what follows them (its final norm) belongs to the last of
    them. A parameter that is shared belongs to the lowest part that uses it.

    Args:
        model: fairseq's ``transformer`` or ``transformer_lm``, or a model derived from it.
    """
    taken: set[int] = set()

    def untaken(parameters: Iterator[nn.Parameter]) -> list[nn.Parameter]:
        found = [p for p in parameters if id(p) not in taken]
        taken.update(map(id, found))
        return found

    encoder = getattr(model, "encoder", None)
    sides = {} if encoder is None else {"encoder": encoder}
    sides["decoder"] = model.decoder
    embeddings = [
        parameter
        for side in sides.values()
        for part in _BELOW
        if isinstance(getattr(side, part, None), nn.Module)
        for parameter in untaken(getattr(side, part).parameters())
    ]
    groups = [("embeddings", embeddings)]
    for name, side in sides.items():
        prefix = name if len(sides) > 1 else "layer"
        for number, layer in enumerate(side.layers):
            groups.append((f"{prefix}_{number}", untaken(layer.parameters())))
        if name == "encoder":
            groups[-1][1].extend(untaken(side.parameters()))
    groups.append(("top", untaken(model.parameters())))
    return groups
