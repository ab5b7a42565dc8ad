"""Write a checkpoint of ``gpt`` as a model for CTranslate2's ``Generator``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..data.corpus.whole_folder import new_folder, refuse_existing
from ..errors import UserError
from ..plugin import register
from .gpt2_checkpoint import GPT2Checkpoint, read_gpt2_checkpoint
from .gpt2_import import TOKENIZER

# settings of the folder's config.json that CTranslate2 itself does not have
MAX_POSITIONS = "max_positions"  # number of positions, one of which the BOS token needs
NEVER_WRITTEN = "never_written"  # tokens that a text must not contain

_ACTIVATIONS = {
    "gelu_accurate": "GELUTanh",
    "gelu": "GELU",
    "relu": "RELU",
    "swish": "SWISH",
    "tanh": "Tanh",
    "quick_gelu": "GELUSigmoid",
}


def export_ctranslate2(
    path: str, output: str, data: str | None, quantization: str | None
) -> Iterator[str]:
    """Write a folder for CTranslate2, and yield what there is to say, line by line.

    Args:
        path: checkpoint of ``gpt``.
        output: the folder to make.
        data: folder with its dictionary and tokenizer; None to look for it.
        quantization: CTranslate2's name of a type of weights, such as ``int8``; None for fp32.

    Raises:
        UserError: the checkpoint cannot be exported, the output exists, or CTranslate2 is not
            installed.
    """
    refuse_existing(output)
    try:
        from ctranslate2 import specs
    except ImportError:
        raise UserError(
            "ctranslate2 is not installed; run: pip install 'fairtale[ctranslate2]'"
        ) from None
    register()
    checkpoint = read_gpt2_checkpoint(path, data)
    spec = _spec(checkpoint, specs)
    spec.validate()
    spec.optimize(quantization=quantization)
    with new_folder(output) as made:
        spec.save(made)
        shutil.copyfile(os.path.join(checkpoint.data, TOKENIZER), os.path.join(made, TOKENIZER))
    yield f"wrote {output}: weights in {quantization or 'float32'}, vocabulary and {TOKENIZER}"


def _spec(checkpoint: GPT2Checkpoint, specs: Any) -> Any:
    """Return CTranslate2's specification of the model, with its weights."""
    shape = checkpoint.shape
    spec = specs.TransformerDecoderModelSpec.from_config(
        shape.num_layers,
        shape.num_heads,
        pre_norm=True,
        activation=getattr(specs.Activation, _ACTIVATIONS[shape.activation_fn]),
    )
    tensors = {entry.ours: tensor for entry, tensor in checkpoint.tensors()}
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = _array(tensors["embed_tokens.weight"])
    decoder.position_encodings.encodings = _array(tensors["embed_positions.weight"])
    _set_norm(decoder.layer_norm, tensors, "layer_norm")
    head = "output_projection.weight" if shape.untied_output else "embed_tokens.weight"
    decoder.projection.weight = _array(tensors[head])
    for number, layer in enumerate(decoder.layer):
        ours = f"layers.{number}."
        attention = layer.self_attention
        _set_norm(attention.layer_norm, tensors, f"{ours}self_attn_layer_norm")
        _set_linear(attention.linear[0], tensors, f"{ours}self_attn.qkv_proj")
        _set_linear(attention.linear[1], tensors, f"{ours}self_attn.out_proj")
        _set_norm(layer.ffn.layer_norm, tensors, f"{ours}final_layer_norm")
        _set_linear(layer.ffn.linear_0, tensors, f"{ours}fc1")
        _set_linear(layer.ffn.linear_1, tensors, f"{ours}fc2")
    spec.register_vocabulary(checkpoint.symbols)
    ids = checkpoint.ids
    spec.config.bos_token = checkpoint.symbols[ids["bos"]]
    spec.config.eos_token = checkpoint.symbols[ids["eos"]]
    spec.config.unk_token = checkpoint.symbols[ids.get("unk", ids["eos"])]  # as in GPT-2
    spec.config.layer_norm_epsilon = shape.layer_norm_eps
    spec.config.add_attribute(MAX_POSITIONS, shape.num_positions)
    never = sorted({ids["bos"], ids.get("pad", ids["eos"])} - {ids["eos"]})
    spec.config.add_attribute(NEVER_WRITTEN, [checkpoint.symbols[i] for i in never])
    return spec


def _array(tensor: Tensor) -> Any:
    return tensor.float().contiguous().numpy()


def _set_norm(spec: Any, tensors: dict[str, Tensor], name: str) -> None:
    spec.gamma, spec.beta = _array(tensors[f"{name}.weight"]), _array(tensors[f"{name}.bias"])


def _set_linear(spec: Any, tensors: dict[str, Tensor], name: str) -> None:
    # GPT2Checkpoint.tensors gives Hugging Face's orientation [in, out]
    spec.weight = _array(tensors[f"{name}.weight"].t())
    spec.bias = _array(tensors[f"{name}.bias"])
