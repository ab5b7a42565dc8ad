"""Merge an adapter into the weights of its base, which gives a plain gpt checkpoint.

Give the checkpoint of the base and --lora-adapter, or only the checkpoint of a training with
--lora-rank, which holds both. The result needs no adapter for decoding, and can be exported and
trained further.
"""

import logging
import os
from argparse import ArgumentParser, Namespace

from ..errors import UserError
from .files import whole_file

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "checkpoint", help="checkpoint of the base, or of a training with --lora-rank"
    )
    parser.add_argument(
        "--lora-adapter",
        metavar="DIR",
        help="folder with the adapter, as peft and fairtale gpt2 adapter save it (default: the "
        "adapter in the checkpoint)",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="the merged checkpoint to write"
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    from ..compat import read_checkpoint
    from ..interop.adapter import adapter_of_checkpoint, check_fit, merged_checkpoint
    from ..interop.peft_adapter import read_adapter
    from ..modules.lora_state import base_fingerprint

    if args.lora_adapter:
        adapter = read_adapter(args.lora_adapter)
        state = read_checkpoint(args.checkpoint)
        check_fit(adapter, state["model"], args.checkpoint)
    else:
        state = read_checkpoint(args.checkpoint)
        adapter = adapter_of_checkpoint(args.checkpoint, state)
        if base_fingerprint(state["model"]) != adapter.base:
            logger.warning(
                "%s does not hold the weights of its base, which was perhaps rounded (--fp16 or "
                "--bf16 in an earlier version); to merge with the base itself, save the adapter "
                "(fairtale gpt2 adapter) and name the base here",
                args.checkpoint,
            )
    if os.path.exists(args.output) and os.path.samefile(args.output, args.checkpoint):
        raise UserError(f"--output {args.output}: the checkpoint itself; name another file")
    merged = merged_checkpoint(state, adapter)
    import torch

    with whole_file(args.output, "wb") as stream:
        torch.save(merged, stream)
    shape = adapter.shape
    print(f"{adapter.source}: rank {shape.rank}, scale {shape.scale:g}, merged -> {args.output}")
