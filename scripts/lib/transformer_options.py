"""Prints the options of fairseq-train that rebuild a checkpoint's transformer, one a line."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from fairtale.errors import UserError  # noqa: E402
from fairtale.pruning.checkpoint import read_settings  # noqa: E402
from fairtale.pruning.parts import HEAD_TYPES, SIDES  # noqa: E402

VALUES = (
    [
        f"{side}_{name}"
        for side in SIDES
        for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")
    ]
    + ["decoder_output_dim", "activation_fn"]
    + ["max_source_positions", "max_target_positions"]
    # of models that were pruned before
    + [f"{kind}_layer_heads" for kind in HEAD_TYPES]
    + [f"{side}_layer_ffn" for side in SIDES]
)
FLAGS = [f"{side}_{name}" for side in SIDES for name in ("normalize_before", "learned_pos")] + [
    "share_decoder_input_output_embed",
    "share_all_embeddings",
    "no_token_positional_embeddings",
    "layernorm_embedding",
    "no_scale_embedding",
    "no_decoder_final_norm",
]
# Parts that fairtale prune does not know, or that cannot be trained with the smoothed loss.
REFUSED = (
    [f"{side}_xformers_att_config" for side in SIDES]
    + [f"scale_{part}" for part in ("attn", "heads", "fc", "resids")]
    + [
        "adaptive_input",
        "adaptive_softmax_cutoff",
        "tie_adaptive_weights",
        "tie_adaptive_proj",
        "merge_src_tgt_embed",
        "no_cross_attention",
        "cross_self_attention",
        "quant_noise_pq",
        "quant_noise_scalar",
        "char_inputs",
        "base_layers",
    ]
)


def transformer_options(path):
    """Return the words for the command line.

    Raises:
        UserError: the checkpoint is of no transformer that translates, or of one that cannot be
            rebuilt; all reasons are named.
    """
    checkpoint = read_settings(path)
    model = vars(checkpoint.settings)
    missing = [name for name in VALUES[:8] if name not in model]
    if missing:
        raise UserError(f"{path}: no transformer with encoder and decoder ({missing[0]} not found)")
    refused = [_option(name) for name in REFUSED if model.get(name)]
    if refused:
        raise UserError(f"{path}: cannot be pruned, for it was trained with {' '.join(refused)}")
    for side in SIDES:
        if model.get(f"{side}_layers_to_keep"):  # the others are not in the checkpoint
            model[f"{side}_layers"] = _num_layers(checkpoint.state["model"], side)
    words = []
    for name in VALUES:
        if model.get(name) not in (None, ""):
            words += [_option(name), str(model[name])]
    return words + [_option(name) for name in FLAGS if model.get(name)]


def _option(name):
    return f"--{name.replace('_', '-')}"


def _num_layers(weights, side):
    return len({key.split(".")[2] for key in weights if key.startswith(f"{side}.layers.")})


if __name__ == "__main__":
    print("\n".join(transformer_options(sys.argv[1])))
