"""Losses, state and communication of sharded trainings, in 2 and 4 processes with gloo."""

import logging

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fairtale.distributed.shards import num_bytes
from tests import dialog_helpers, translation_helpers
from tests.finetuning_helpers import MODEL, write_data
from tests.helpers import write_split
from tests.sharding_helpers import build, together, trained

FSDP = "--ddp-backend fsdp2 --clip-norm 0.5"
COMMON = (
    "--optimizer adam --lr 0.01 --cpu --required-batch-size-multiple 1 --num-workers 0 "
    "--data-buffer-size 0 --dropout 0 "
)
SHAPE = " ".join(
    f"--{side}-layers 2 --{side}-embed-dim 16 --{side}-ffn-embed-dim 32 --{side}-attention-heads 2"
    for side in ("encoder", "decoder")
)
MODELS = {
    "gpt": ("stories", " ".join(MODEL)),
    "unilm": ("stories", " ".join(MODEL) + " --arch unilm_seq2seq_tiny"),
    "transformer": (
        "translations",
        f"{COMMON} {SHAPE} --task wmt16_translation --arch transformer --batch-size 1 "
        "--share-all-embeddings --criterion label_smoothed_cross_entropy",
    ),
    "transformer_hcg": (
        "translations",
        f"{COMMON} {SHAPE} --task wmt16_translation --arch transformer_hcg --batch-size 1 "
        "--criterion l0_gated --l0-penalty 0.5 --checkpoint-activations --max-update 9",
    ),
    "transformer_lm": (
        "stories",
        f"{COMMON} --task language_modeling --arch transformer_lm --decoder-embed-dim 16 "
        "--decoder-input-dim 16 --decoder-output-dim 16 --decoder-layers 2 --batch-size 4 "
        "--decoder-ffn-embed-dim 16 --decoder-attention-heads 2 --tokens-per-sample 16",
    ),
    "dialog_nat": (
        "dialogs",
        f"{COMMON} {SHAPE} --task dialog_nat --arch insertion_transformer --criterion nat_loss "
        "--share-all-embeddings --apply-bert-init --batch-size 4",
    ),
}
# what a training of one process has: the name of a case, its model and its options
ALONE = {
    "plain": ("gpt", ""),
    "bf16": ("gpt", f"{FSDP} --bf16"),
    "untied": ("gpt", "--untied-output --checkpoint-activations"),
    "adapters": ("gpt", "--lora-rank 2 --restore-file {base}"),
    "frozen": ("gpt", "--freeze-all-but-last 2"),
    "unfreezing": ("gpt", "--unfreeze-schedule 0:1,1:2,2:all --lr-decay-per-group 0.5"),
    "unilm": ("unilm", ""),
    "transformer": ("transformer", ""),
    "transformer_lm": ("transformer_lm", "--criterion label_smoothed_kl"),
}
# of several processes: number of processes, case of one process, options
SHARDED = [
    (2, "plain", f"{FSDP} --shard-stage 1"),
    (2, "plain", f"{FSDP} --shard-stage 2"),
    (2, "plain", f"{FSDP} --shard-stage 3 --cpu-offload"),
    (2, "plain", f"{FSDP} --shard-stage 3 --accumulate-locally"),
    (2, "bf16", f"{FSDP} --shard-stage 1 --bf16"),
    (2, "bf16", f"{FSDP} --shard-stage 3 --bf16 --cpu-offload"),
    (2, "untied", f"{FSDP} --shard-stage 3 --untied-output --checkpoint-activations"),
    (2, "adapters", f"{FSDP} --shard-stage 3 --lora-rank 2 --restore-file {{base}}"),
    (2, "frozen", f"{FSDP} --shard-stage 2 --freeze-all-but-last 2"),
    (2, "unfreezing", f"{FSDP} --shard-stage 1 {ALONE['unfreezing'][1]}"),
    (2, "unfreezing", f"{FSDP} --shard-stage 3 {ALONE['unfreezing'][1]}"),
    (2, "unilm", f"{FSDP} --shard-stage 3"),
    (2, "transformer", f"{FSDP} --shard-stage 3"),
    (2, "transformer_lm", f"{FSDP} --shard-stage 2 --criterion label_smoothed_kl"),
    (4, "plain", f"{FSDP} --shard-stage 1 --cpu-offload"),
    (4, "plain", f"{FSDP} --shard-stage 2"),
    (4, "plain", f"{FSDP} --shard-stage 3"),
    (4, "bf16", f"{FSDP} --shard-stage 2 --bf16"),
    (4, "adapters", f"{FSDP} --shard-stage 1 --lora-rank 2 --restore-file {{base}}"),
    (4, "unfreezing", f"{FSDP} --shard-stage 2 {ALONE['unfreezing'][1]}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data folders of four batches each, and a checkpoint to name as the base of adapters."""
    top = tmp_path_factory.mktemp("sharded")
    for name in ("stories", "translations", "dialogs"):
        (top / name).mkdir()
    write_data(top / "stories")
    translation_helpers.write_data(top / "translations")
    dictionary = dialog_helpers.dialog_dictionary()
    dictionary.save(str(top / "dialogs" / "dict.txt"))
    lines = [dialog_helpers.encode(dictionary, line) for line in dialog_helpers.random_lines(16)]
    rows = [torch.as_tensor(line) for line in lines]
    write_split(top / "dialogs", "train", rows, len(dictionary))
    torch.save({}, top / "base.pt")
    return top


def start(folder, rank, count, model, words, update_freq):
    data, options = MODELS[model]
    words = words.format(base=folder / "base.pt").split()
    return build(folder / data, rank, count, *words, update_freq=update_freq, model=options.split())


def result_of(trainer, updates):
    """Train three epochs; return what this process has seen, has, and would save."""
    seen = trained(trainer, updates * 3)
    inner = trainer.optimizer.optimizer
    state = [v for values in inner.state.values() for v in values.values() if torch.is_tensor(v)]
    trainer.consolidate_optimizer()
    saved = trainer.state_dict()
    parts = {name: saved[name] for name in ("model", "last_optimizer_state", "optimizer_history")}
    parameters = list(trainer.model.parameters())
    return {
        "seen": seen,
        "bytes": (num_bytes(parameters), num_bytes(state)),
        "saved": parts if trainer.is_data_parallel_master else None,
        "keys": list(saved),
    }


@pytest.fixture(scope="module")
def alone(folder):
    """Results of one process, by case."""

    def work(rank):
        logging.disable(logging.INFO)
        # a process that is not sharded clips as the others do
        return {
            case: result_of(*start(folder, rank, 1, model, f"--clip-norm 0.5 {words}", 4))
            for case, (model, words) in ALONE.items()
        }

    return together(1, folder / "alone", work)[0]


@pytest.fixture(scope="module")
def sharded(folder):
    """Results of several processes: one for each process, by case."""
    found = {}
    for count in (2, 4):
        cases = [case for case in SHARDED if case[0] == count]

        def work(rank, count=count, cases=cases):
            logging.disable(logging.INFO)
            return [
                result_of(*start(folder, rank, count, ALONE[like][0], words, 4 // count))
                for _, like, words in cases
            ]

        found.update(zip(cases, zip(*together(count, folder / f"{count}", work))))
    return found


def largest_difference(left, right):
    """The largest difference between tensors in nested containers of the same structure."""
    if torch.is_tensor(left) and left.dim():
        assert left.dtype == right.dtype and left.shape == right.shape
        return (left - right).abs().max().item() if left.numel() else 0.0
    if isinstance(left, dict):
        assert list(left) == list(right)
        return max((largest_difference(left[key], right[key]) for key in left), default=0.0)
    if isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        return max((largest_difference(a, b) for a, b in zip(left, right)), default=0.0)
    assert left == right
    return 0.0


@pytest.mark.parametrize("case", SHARDED, ids=lambda c: f"{c[0]} {c[1]} {c[2][len(FSDP) + 1 :]}")
def test_losses_and_checkpoints_are_those_of_one_process(case, alone, sharded):
    one, several = alone[case[1]], sharded[case]
    for process in several:
        for (loss, norm), (own_loss, own_norm) in zip(one["seen"], process["seen"], strict=True):
            assert own_loss == pytest.approx(loss, abs=1e-5)
            assert own_norm == pytest.approx(norm, abs=1e-5)
        assert process["keys"] == one["keys"]
    # Adam's first steps have the size of the rate however small a gradient is
    assert largest_difference(one["saved"], several[0]["saved"]) < 2e-4


def test_the_losses_fall(alone):
    """Or else the comparison would show nothing."""
    for case, result in alone.items():
        losses = [loss for loss, _ in result["seen"]]
        assert losses[-1] < losses[0] - 1e-3 or case == "adapters", (case, losses)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_state_of_a_process_shrinks_with_their_number(stage, alone, sharded):
    """Dimensions of the model are multiples of 4, so each process holds exactly 1/N."""
    whole = alone["plain"]["bytes"]
    for (count, like, words), several in sharded.items():
        if like == "plain" and f"--shard-stage {stage}" in words:
            for process in several:
                assert process["bytes"] == (whole[0] // count, whole[1] // count)


@pytest.mark.parametrize("model", ["transformer_hcg", "dialog_nat"])
def test_models_that_draw_random_numbers(model, folder):
    """Against DDP in as many processes, which draw the same numbers."""

    def work(rank):
        logging.disable(logging.INFO)
        return [
            result_of(*start(folder, rank, 2, model, f"--clip-norm 0.5 {words}", 2))
            for words in (
                "--ddp-backend legacy_ddp",
                f"{FSDP} --shard-stage 2",
                f"{FSDP} --shard-stage 3",
            )
        ]

    for ddp, *kinds in together(2, folder / model, work):
        for kind in kinds:
            for (loss, norm), (own_loss, own_norm) in zip(ddp["seen"], kind["seen"], strict=True):
                assert own_loss == pytest.approx(loss, abs=1e-5)
                assert own_norm == pytest.approx(norm, abs=1e-5)
            if ddp["saved"]:
                assert largest_difference(ddp["saved"]["model"], kind["saved"]["model"]) < 2e-4


def test_communication_of_an_update(folder):
    """An update of two batches: what is gathered and reduced once, and what for each batch."""

    def work(rank):
        logging.disable(logging.INFO)
        found = []
        for words in (
            "--shard-stage 1",
            "--shard-stage 2",
            "--shard-stage 3",
            "--shard-stage 3 --accumulate-locally",
        ):
            trainer, updates = start(folder, rank, 2, "gpt", f"{FSDP} {words}", 2)
            with profile(activities=[ProfilerActivity.CPU]) as communication:
                trainer.train_step(updates[0])
            names = [event.name for event in communication.events()]
            kinds = "c10d::_allgather_base_", "c10d::_reduce_scatter_base_"
            found.append([names.count(kind) for kind in kinds])
        return found

    units = 5  # four layers and the rest
    for counts in together(2, folder / "communication", work):
        assert counts == [
            [units, units],  # both once per update
            [units, 2 * units],
            [2 * (units + 4), 2 * units],  # layers are gathered again for the backward pass
            [2 * (units + 4), units],
        ]


def test_a_checkpoint_of_one_process_is_read_by_two(folder):
    """The file is that of fairseq's own training; the rates per group and frozen layers, too."""
    words = f"{ALONE['unfreezing'][1]} --clip-norm 0.5"
    path = str(folder / "one.pt")
    place = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "version": 2}}

    def save(rank):
        trainer, updates = start(folder, rank, 1, "gpt", words, 4)
        trained(trainer, updates * 2)
        trainer.consolidate_optimizer()
        trainer.save_checkpoint(path, place)
        return trained(trainer, updates)

    def go_on(rank):
        trainer, updates = start(folder, rank, 2, "gpt", f"{FSDP} {words}", 2)
        trainer.load_checkpoint(path)
        return trained(trainer, updates)

    (expected,) = together(1, folder / "save", save)
    for seen in together(2, folder / "go_on", go_on):
        assert seen == [pytest.approx(values, abs=1e-5) for values in expected]
