"""Cure of ``--bf16``, which fairseq takes for a training on TPUs."""

from argparse import Namespace


def switch_off_tpu(args: Namespace, words: list[str]) -> None:
    """Set ``args.tpu`` to False unless ``--tpu`` is among the words of the command line.

    ``--bf16`` turns on ``--tpu`` and then fails without torch_xla. Needless once fairseq leaves
    ``tpu`` as it was given.
    """
    if getattr(args, "bf16", False) and "--tpu" not in words:
        args.tpu = False
