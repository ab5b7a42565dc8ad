"""Work around ``--bf16``, which makes fairseq train on TPUs."""

from argparse import Namespace


def switch_off_tpu(args: Namespace, words: list[str]) -> None:
    """Set ``args.tpu`` to False unless ``--tpu`` is among the words of the command line.

    ``--bf16`` switches ``--tpu`` on, and training then fails without torch_xla. Remove this
    work-around once fairseq keeps the given value of ``tpu``.

    Args:
        args: parsed options, which are changed in place.
        words: words of the command line.
    """
    if getattr(args, "bf16", False) and "--tpu" not in words:
        args.tpu = False
