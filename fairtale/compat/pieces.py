"""Refuse to join the pieces of a text twice."""

from argparse import Namespace

from ..errors import UserError


def refuse_joining_twice(args: Namespace, has_tokenizer: bool = False) -> None:
    """Refuse ``--remove-bpe`` where a tokenizer joins the pieces of what is generated.

    fairseq first joins pieces as ``--remove-bpe`` says, and then lets the tokenizer decode the
    result. The tokenizer takes the spaces between words for those between pieces, and removes them:
    BLEU is 0, without a warning. Remove this check once fairseq does one of both.

    Args:
        args: parsed options of a fairseq command.
        has_tokenizer: whether the task has a tokenizer of its own, besides that of ``--bpe``.

    Raises:
        UserError: both are given.
    """
    joined, bpe = getattr(args, "post_process", None), getattr(args, "bpe", None)
    if joined is None or not hasattr(args, "beam") or not (bpe or has_tokenizer):
        return
    whose = f"--bpe {bpe}" if bpe else "the tokenizer beside the data"
    raise UserError(
        f"--remove-bpe {joined}: {whose} joins the pieces itself, and would remove the spaces "
        "between words as well; leave --remove-bpe out"
    )
