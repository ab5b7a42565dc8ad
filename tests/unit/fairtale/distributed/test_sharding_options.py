"""Options that sharded training refuses before anything is loaded."""

import pytest
from fairseq import options as fairseq_options

import user_dir  # noqa: F401  (adds the options)
from fairtale.distributed.sharding_options import generates
from fairtale.errors import UserError
from tests.compat_helpers import parse

FSDP = ["--ddp-backend", "fsdp2"]


def test_the_options_are_parsed_and_help_names_them():
    args = parse(*FSDP, "--shard-stage", "3", "--cpu-offload", "--accumulate-locally")
    assert (args.shard_stage, args.cpu_offload, args.accumulate_locally) == (3, True, True)
    assert parse().shard_stage is None  # the backend is fairseq's
    text = fairseq_options.get_training_parser().format_help()
    assert "fsdp2" in text and "--shard-stage" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard-stage", "2"], "--shard-stage needs --ddp-backend fsdp2"),
        (["--accumulate-locally"], "--accumulate-locally needs --ddp-backend fsdp2"),
        ([*FSDP, "--shard-stage", "0"], "--shard-stage 0: must be 1"),
        ([*FSDP, "--shard-stage", "4"], "--shard-stage 4: must be 1"),
        ([*FSDP, "--shard-stage", "1", "--accumulate-locally"], "stage 1 always does so"),
        ([*FSDP, "--amp"], r"not supported: --amp \(use --bf16"),
        (
            [*FSDP, "--store-ema", "--memory-efficient-fp16"],
            "--memory-efficient-fp16 .*--store-ema",
        ),
        ([*FSDP, "--zero-sharding", "os"], "use --shard-stage 1"),
        ([*FSDP, "--ddp-comm-hook", "fp16"], "--ddp-comm-hook"),
        ([*FSDP, "--decoder-layerdrop", "0.1"], "would drop different layers"),
        ([*FSDP, "--use-sharded-state"], "it is fairscale's"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse(*words)


def test_generation_in_an_update_needs_whole_parameters():
    words = ["--criterion", "unlikelihood", "--unlikelihood-sequence-prob", "0.5", *FSDP]
    assert parse(*words, "--shard-stage", "2")
    with pytest.raises(UserError, match="--unlikelihood-sequence-prob 0.5 with --shard-stage 3"):
        parse(*words, "--shard-stage", "3")


def test_tasks_that_generate_in_validation():
    class Task:
        sample_prompts, eval_bleu = None, False

    assert not generates(Task())
    Task.eval_bleu = True
    assert generates(Task())
