"""Export a checkpoint of gpt with a byte-level tokenizer.

The output is a Hugging Face folder of a GPT-2 model, which transformers and vLLM load, or with
--format ctranslate2 a folder for CTranslate2's Generator. Entries of the dictionary that are never
predicted are left out. If transformers is installed, the logits of a few tokens are compared at the
end. Texts begin with the bos token, also when transformers continues them.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from ..errors import UserError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
QUANTIZATIONS = (
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)


def size_in_bytes(text: str) -> int:
    """Return the number of bytes of a size such as ``5GB`` or ``500MiB``."""
    found = re.fullmatch(r"(\d+)\s*([KMG]I?B)?", text.strip().upper())
    if not found or int(found[1]) < 1:
        raise ArgumentTypeError(f"{text!r} is not a size such as 5GB or 500MB")
    return int(found[1]) * _UNITS[found[2] or ""]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("checkpoint", help="a checkpoint of gpt")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with dict.txt and tokenizer.json (default: that of the checkpoint, or the one "
        "that the model was trained on)",
    )
    parser.add_argument(
        "--format",
        choices=("huggingface", "ctranslate2"),
        default="huggingface",
        help="kind of folder (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="type of the weights for huggingface (default: float32)",
    )
    parser.add_argument(
        "--max-shard-size",
        type=size_in_bytes,
        metavar="SIZE",
        help="maximum size of a file with weights for huggingface (default: 5GB)",
    )
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="type of the weights for ctranslate2 (default: float32)",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    for name, kind in (
        ("dtype", "huggingface"),
        ("max_shard_size", "huggingface"),
        ("quantization", "ctranslate2"),
    ):
        if getattr(args, name) is not None and args.format != kind:
            raise UserError(
                f"--{name.replace('_', '-')}: has no effect with --format {args.format}; leave it "
                "out"
            )
    if args.format == "ctranslate2":
        from ..interop.ctranslate2_export import export_ctranslate2

        lines = export_ctranslate2(args.checkpoint, args.output, args.data, args.quantization)
    else:
        from ..interop.gpt2_export import export_gpt2

        lines = export_gpt2(
            args.checkpoint,
            args.output,
            args.data,
            args.dtype or "float32",
            args.max_shard_size or 5 * 10**9,
        )
    for line in lines:
        print(line, flush=True)
