#!/usr/bin/env python
"""Time replies of equal length: mask-predict beside gpt and UniLM of the same shape.

The models are random, so that only the way of decoding differs; every reply has --length tokens,
give or take two where several lengths are tried.
"""

import argparse
from argparse import Namespace

import common
import torch
from fairseq import utils
from fairseq.data import Dictionary
from omegaconf import OmegaConf


def parse_args():
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    common.add_machine_options(parser)
    parser.add_argument("--embed-dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=32, help="dialogs of a batch")
    parser.add_argument("--length", type=int, default=12, help="tokens of every reply")
    return parser.parse_args()


def build(args, device):
    """Return the task and the model of each kind."""
    from user_dir.models.gpt import GPTConfig, GPTModel
    from user_dir.models.mask_predict import MaskPredictConfig, MaskPredictModel
    from user_dir.models.unilm_seq2seq import UniLMSeq2SeqConfig as UniLMConfig
    from user_dir.models.unilm_seq2seq import UniLMSeq2SeqModel
    from user_dir.tasks.dialog_lm import DialogLMConfig, DialogLMTask
    from user_dir.tasks.dialog_nat import DialogNATConfig, DialogNATTask

    dictionary = Dictionary()
    for word in (*map(str, range(args.vocab - 6)), "<CTX>", "<SEP>"):
        dictionary.add_symbol(word)
    built = {}
    for name, task, model, config in (
        ("gpt", DialogLMTask(DialogLMConfig(), dictionary), GPTModel, GPTConfig),
        ("unilm", DialogLMTask(DialogLMConfig(), dictionary), UniLMSeq2SeqModel, UniLMConfig),
        ("nat", DialogNATTask(DialogNATConfig(), dictionary), MaskPredictModel, MaskPredictConfig),
    ):
        cfg = config(
            name,
            decoder_embed_dim=args.embed_dim,
            decoder_ffn_embed_dim=4 * args.embed_dim,
            decoder_layers=args.layers,
            decoder_attention_heads=max(1, args.embed_dim // 32),
        )
        # as the task settles it when it builds the model
        task._options["seq2seq_prob"] = float(name == "unilm")
        built[name] = task, model.build_model(OmegaConf.structured(cfg), task).to(device).eval()
    return built


def main():
    """Run the benchmark and print its table."""
    args = parse_args()
    device = common.settle(args)
    common.import_user_dir()
    built = build(args, device)
    sep = built["gpt"][0].sep
    sizes = torch.randint(10, 100, (args.batch_size,)).tolist()
    ends = torch.tensor([sep, 2])
    asked = [torch.cat([torch.randint(4, args.vocab - 2, (n,)), ends]) for n in sizes]

    def step(name, beam, **options):
        task, model = built[name]
        # the lengths that mask-predict tries differ, around the length of all other replies
        fewer, more = ((beam - 1) // 2, beam // 2) if name == "nat" else (0, 0)
        shortest, longest = args.length - fewer, args.length + more
        dataset = task.build_dataset_for_inference(asked, None)
        sample = dataset.collater([dataset[i] for i in range(len(dataset))])
        sample = utils.apply_to_sample(lambda x: x.to(device), sample)
        options = Namespace(beam=beam, min_len=shortest, max_len_b=longest, **options)
        generator = task.build_generator([model], options)

        def run():
            fresh = {"net_input": dict(sample["net_input"])}
            replies = task.inference_step(generator, [model], fresh)
            assert all(shortest <= (h[0]["tokens"] != 2).sum() <= longest for h in replies)

        return run

    steps = {f"{name}, beam {k}": step(name, beam=k) for k in (1, 4) for name in ("gpt", "unilm")}
    for k in (1, 4):
        for more in (0, 3, 10):
            words = f"mask-predict, {k} length{'s' * (k > 1)}, --iter-decode-max-iter {more}"
            steps[words] = step("nat", beam=k, iter_decode_max_iter=more)
    seconds = common.alternate(
        steps, args.rounds or 12, 1, device, args.clock, common.seconds_left(args)
    )
    first = seconds["gpt, beam 4"]
    body = common.table(
        ["decoding", "replies/s", "time beside gpt, beam 4"],
        [
            [name, common.rate(args.batch_size, own), common.ratio(own, first)]
            for name, own in seconds.items()
        ],
    )
    body += (
        f"\n\n{args.embed_dim} wide, {args.layers} layers, {args.vocab:,} entries, fp32, random "
        f"models; {args.batch_size} dialogs a batch, replies of {args.length} tokens"
    )
    title = f"Replies, {args.embed_dim} wide, {args.layers} layers, batches of {args.batch_size}"
    common.publish(title, device, body, not args.no_write)


if __name__ == "__main__":
    main()
