"""Import a GPT-2 model from a Hugging Face folder.

The output is a data folder with the model: checkpoint.pt, dict.txt and tokenizer.json. Binarise
texts into it and go on from the checkpoint:

  fairseq-preprocess --only-source --srcdict DIR/dict.txt --trainpref TEXT --destdir DIR ...
  fairseq-train DIR --finetune-from-model DIR/checkpoint.pt ...
  fairseq-interactive DIR --path DIR/checkpoint.pt ...

Names, shapes and settings are checked before weights are read, and nothing is guessed: what gpt
would not compute exactly is refused. Needs safetensors and tokenizers (extra hf). If transformers
is installed, the logits of a few tokens are compared with its own at the end.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

ROLES = {
    "bos": "begins a text",
    "eos": "ends a text",
    "pad": "fills rows",
    "unk": "stands for unknown text",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("folder", help="a folder with config.json, weights and a tokenizer")
    parser.add_argument("--output", required=True, metavar="DIR", help="the data folder to make")
    for role, text in ROLES.items():
        parser.add_argument(
            f"--{role}-token-id",
            type=int,
            metavar="N",
            help=f"id of the token that {text} (default: as in the folder's files)",
        )


def run(args: Namespace) -> None:
    """Run the verb."""
    from ..interop.gpt2_import import import_gpt2

    ids = {role: getattr(args, f"{role}_token_id") for role in ROLES}
    given = {role: index for role, index in ids.items() if index is not None}
    for line in import_gpt2(args.folder, args.output, given):
        print(line, flush=True)
