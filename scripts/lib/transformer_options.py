"""Prints the options of fairseq-train that rebuild a checkpoint's transformer, one a line."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from user_dir.errors import UserError  # noqa: E402
from user_dir.pruning.checkpoint import read_settings  # noqa: E402
from user_dir.pruning.parts import HEAD_TYPES, SIDES  # noqa: E402

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
]


def transformer_options(path):
    """Return the words for the command line.

    Raises:
        UserError: the checkpoint is of no transformer that translates.
    """
    model = vars(read_settings(path).settings)
    missing = [name for name in VALUES[:8] if name not in model]
    if missing:
        raise UserError(f"{path}: no transformer with encoder and decoder ({missing[0]} not found)")
    words = []
    for name in VALUES:
        if model.get(name) not in (None, ""):
            words += [f"--{name.replace('_', '-')}", str(model[name])]
    return words + [f"--{name.replace('_', '-')}" for name in FLAGS if model.get(name)]


if __name__ == "__main__":
    print("\n".join(transformer_options(sys.argv[1])))
