"""Save the adapter of a checkpoint as a small folder in PEFT's format.

The checkpoint comes from fairseq-train --lora-rank. The folder holds adapter_config.json and
adapter_model.safetensors, and the fingerprint of the base. Give it to --lora-adapter together with
the base, or to peft together with the exported base.
"""

import os
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("checkpoint", help="checkpoint of a training with --lora-rank")
    parser.add_argument("--output", required=True, metavar="DIR", help="the new folder")
    parser.add_argument(
        "--base-model",
        metavar="NAME",
        help="folder or name of the base in Hugging Face's format, for adapter_config.json "
        "(base_model_name_or_path; default: none)",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    from ..interop.adapter import adapter_of_checkpoint
    from ..interop.peft_adapter import WEIGHTS, write_adapter

    adapter = adapter_of_checkpoint(args.checkpoint)
    write_adapter(args.output, adapter, args.base_model)
    count = sum(factor.numel() for pair in adapter.weights.values() for factor in pair)
    size = os.path.getsize(os.path.join(args.output, WEIGHTS))
    print(
        f"adapter of rank {adapter.shape.rank} on {','.join(adapter.shape.targets)} of "
        f"{adapter.num_layers} layers: {count:,} parameters, {size / 1000:,.0f} kB -> {args.output}"
    )
