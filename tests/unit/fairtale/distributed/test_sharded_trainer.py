"""Losses, state and communication of sharded trainings, in 2 and 4 processes with gloo."""

import logging

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fairtale.distributed.shards import num_bytes
from tests import dialog_helpers, translation_helpers
from tests.checkpoint_helpers import assert_same
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
DECODER = SHAPE[SHAPE.index("--decoder") :]
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
        f"{COMMON} {DECODER} --task dialog_nat --arch mask_predict_tiny --batch-size 4 "
        "--max-target-positions 20 --criterion label_smoothed_kl",
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
QUICK = [
    (2, "plain", f"{FSDP} --shard-stage 1"),
    (2, "plain", f"{FSDP} --shard-stage 2"),
    (2, "plain", f"{FSDP} --shard-stage 3 --cpu-offload"),
    (2, "bf16", f"{FSDP} --shard-stage 3 --bf16 --cpu-offload"),
    (2, "adapters", f"{FSDP} --shard-stage 3 --lora-rank 2 --restore-file {{base}}"),
    (2, "unfreezing", f"{FSDP} --shard-stage 3 {ALONE['unfreezing'][1]}"),
    (2, "transformer", f"{FSDP} --shard-stage 3"),
    (4, "plain", f"{FSDP} --shard-stage 2"),
]
SLOW = [
    (2, "plain", f"{FSDP} --shard-stage 3 --accumulate-locally"),
    (2, "bf16", f"{FSDP} --shard-stage 1 --bf16"),
    (2, "untied", f"{FSDP} --shard-stage 3 --untied-output --checkpoint-activations"),
    (2, "frozen", f"{FSDP} --shard-stage 2 --freeze-all-but-last 2"),
    (2, "unfreezing", f"{FSDP} --shard-stage 1 {ALONE['unfreezing'][1]}"),
    (2, "unilm", f"{FSDP} --shard-stage 3"),
    (2, "transformer_lm", f"{FSDP} --shard-stage 2 --criterion label_smoothed_kl"),
    (4, "plain", f"{FSDP} --shard-stage 1 --cpu-offload"),
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


class Results:
    """Results of one process and of several, by case; all that are asked for run at once."""

    def __init__(self, folder):
        self.folder, self.alone, self.sharded = folder, {}, {}

    def run(self, cases):
        """Train the cases of a list that were not trained yet."""
        if cases[0] in self.sharded:
            return
        new = {like: ALONE[like] for _, like, _ in cases if like not in self.alone}
        place = self.folder / f"{len(self.sharded)}"

        def work_alone(rank):
            logging.disable(logging.INFO)
            # a process that is not sharded clips as the others do
            return {
                like: result_of(*start(self.folder, rank, 1, model, f"--clip-norm 0.5 {words}", 4))
                for like, (model, words) in new.items()
            }

        self.alone |= together(1, place / "1", work_alone)[0]
        for count in (2, 4):
            own = [case for case in cases if case[0] == count]

            def work(rank, count=count, own=own):
                logging.disable(logging.INFO)
                return [
                    result_of(*start(self.folder, rank, count, ALONE[like][0], words, 4 // count))
                    for _, like, words in own
                ]

            self.sharded.update(zip(own, zip(*together(count, place / f"{count}", work))))


@pytest.fixture(scope="module")
def results(folder):
    return Results(folder)


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


def name_of(case):
    return f"{case[0]} {case[1]} {case[2][len(FSDP) + 1 :]}"


def check(case, results):
    one, several = results.alone[case[1]], results.sharded[case]
    losses = [loss for loss, _ in one["seen"]]
    # or else the comparison would show nothing; the factor B of adapters is zero at first
    assert losses[-1] < losses[0] - (1e-6 if case[1] == "adapters" else 1e-3)
    for process in several:
        for (loss, norm), (own_loss, own_norm) in zip(one["seen"], process["seen"], strict=True):
            assert own_loss == pytest.approx(loss, abs=1e-5)
            assert own_norm == pytest.approx(norm, abs=1e-5)
        assert process["keys"] == one["keys"]
        if case[1] == "plain":  # dimensions are multiples of 4: each holds exactly 1/N
            assert process["bytes"] == tuple(n // len(several) for n in one["bytes"])
    # Adam's first steps have the size of the rate however small a gradient is
    assert largest_difference(one["saved"], several[0]["saved"]) < 2e-4


@pytest.mark.parametrize("case", QUICK, ids=name_of)
def test_losses_checkpoints_and_the_state_that_a_process_holds(case, results):
    results.run(QUICK)
    check(case, results)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=name_of)
def test_more_losses_checkpoints_and_states(case, results):
    results.run(SLOW)
    check(case, results)


@pytest.mark.parametrize(
    "model", ["transformer_hcg", pytest.param("dialog_nat", marks=pytest.mark.slow)]
)
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


@pytest.mark.parametrize(
    "precision", ["--bf16", "--fp16 --fp16-init-scale 4 --fp16-scale-window 3"]
)
def test_goes_on_exactly_in_16_bits(precision, folder, tmp_path):
    words = f"{FSDP} {precision} --freeze-all-but-last 2 --lr 1e-4"

    def work(rank):
        logging.disable(logging.INFO)
        path = str(tmp_path / "half.pt")
        whole, updates = start(folder, rank, 1, "gpt", words, 1)
        trained(whole, updates[:4])
        whole.consolidate_optimizer()
        whole.save_checkpoint(path, {"train_iterator": {"epoch": 1, "iterations_in_epoch": 1}})
        again, _ = start(folder, rank, 1, "gpt", words, 1)
        again.load_checkpoint(path)
        results = [result_of(trainer, updates) for trainer in (whole, again)]
        for result in results:
            result["saved"]["optimizer_history"] = result["saved"]["optimizer_history"][-1]
        return results

    whole, again = together(1, tmp_path / "group", work)[0]
    assert whole["seen"] == again["seen"]
    assert_same(again["saved"], whole["saved"])
