"""fairseq's trainer freezes, unfreezes and trains groups of layers as the options say."""

from argparse import Namespace

import pytest
import torch
from fairseq import checkpoint_utils

from fairtale.errors import UserError
from fairtale.optim.finetuning_hooks import check_resumed
from tests.finetuning_helpers import (
    NUM_GROUPS,
    build_trainer,
    changed,
    group_of,
    update,
    weights,
    write_data,
)

PRECISIONS = {
    "fp32": [],
    "bf16": ["--bf16"],
    "memory efficient": ["--memory-efficient-bf16"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def trained_names(trainer, lowest):
    """Return the names of the parameters in the groups from ``lowest`` on."""
    return {name for name in weights(trainer) if group_of(name) >= lowest}


def state_sizes(trainer):
    """Return the shapes of the parameters that the optimizer keeps a state for."""
    return sorted(tuple(p.shape) for p in trainer.optimizer.optimizer.state)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_frozen_parameters_stay_as_they_are(precision, data):
    trainer, batches = build_trainer(data, "--freeze-all-but-last", 2, *PRECISIONS[precision])
    before = weights(trainer)
    update(trainer, batches, 50)
    trained = trained_names(trainer, NUM_GROUPS - 2)
    assert changed(before, weights(trainer)) == trained
    own = {name: p for name, p in trainer.get_model().named_parameters() if name in trained}
    assert state_sizes(trainer) == sorted(tuple(p.shape) for p in own.values())
    assert sum(1 for _ in trainer.optimizer.params) == len(trained)  # no copies of others either


@pytest.mark.parametrize("precision", PRECISIONS)
def test_unfreezing(precision, data):
    words = ["--unfreeze-schedule", "0:1,3:2,6:all", *PRECISIONS[precision]]
    trainer, batches = build_trainer(data, *words)
    stages = [(3, NUM_GROUPS - 1), (3, NUM_GROUPS - 2), (2, 0)]
    for count, lowest in stages:
        before = weights(trainer)
        update(trainer, batches, count)
        trained = trained_names(trainer, lowest)
        assert changed(before, weights(trainer)) == trained
        assert len(state_sizes(trainer)) == len(trained)
    # a state counts only the updates in which its parameter was trained
    steps = [state["step"] for state in trainer.optimizer.optimizer.state.values()]
    assert set(steps) == {8, 5, 2}


def test_unfreezing_by_epochs(data):
    trainer, batches = build_trainer(data, "--unfreeze-schedule", "1e:1,2e:2,4e:3")
    for epoch, lowest in ((1, 4), (2, 3), (3, 3), (4, 2)):
        trainer.begin_epoch(epoch)
        before = weights(trainer)
        update(trainer, batches, 4)
        assert changed(before, weights(trainer)) == trained_names(trainer, lowest)
    # the embeddings and the first layer are never trained, so the optimizer does not know them
    assert len(list(trainer.optimizer.params)) == len(trained_names(trainer, 2))


def test_the_fp32_copy_of_a_frozen_parameter_is_not_decayed(data):
    trainer, batches = build_trainer(data, "--bf16", "--unfreeze-schedule", "0:1,8:all")
    update(trainer, batches, 8)
    model = [p for p in trainer.get_model().parameters()]
    copies = {tuple(p.shape): [] for p in model}
    for copy in trainer.optimizer.params:
        copies[tuple(copy.shape)].append(copy)
    embedding = trainer.get_model().transformer.embed_tokens.weight
    assert any(torch.equal(embedding.float(), c) for c in copies[tuple(embedding.shape)])


def test_the_backward_pass_ends_at_the_lowest_trained_layer(data, monkeypatch):
    """No gradient reaches the embeddings or lower layers, and none of the tied head is computed."""
    import fairtale.modules.chunked_loss as chunked

    wanted, project = [], chunked.project
    monkeypatch.setattr(chunked, "project", lambda *args: wanted.append(args[5:]) or project(*args))
    trainer, batches = build_trainer(data, "--unfreeze-schedule", "0:1,1:3,2:all")
    reached = []
    for number, layer in enumerate(trainer.get_model().transformer.layers):
        # a tensor that does not require a gradient has no node in the graph
        layer.register_forward_hook(
            lambda _, inputs, output, n=number: reached.append(
                (n, inputs[0].requires_grad, output.requires_grad)
            )
        )
    for lowest in (3, 1, 0):
        reached.clear()
        wanted.clear()
        update(trainer, batches, 1)
        everything = trainer._finetuning_plan.trained(trainer.get_num_updates() - 1, 1)[0]
        assert reached == [(n, n > lowest or everything, n >= lowest) for n in range(4)]
        assert wanted == [(True, everything)]
        for name, p in trainer.get_model().named_parameters():
            frozen = not everything and group_of(name) < lowest + 1
            assert (p.grad is None) == frozen, name


RATES = {
    "decay": (["--finetune-groups", 2, "--lr-decay-per-group", 0.5], [0.25, 0.5, 1.0]),
    "layer-wise decay": (["--lr-decay-per-group", 0.9], [0.9**k for k in (4, 3, 2, 1, 0)]),
    "list": (["--finetune-groups", 2, "--lr-per-group", "1e-4,3e-3,2e-2"], [0.01, 0.3, 2.0]),
    "last layers": (["--freeze-all-but-last", 2, "--lr-decay-per-group", 0.5], [0.5, 1.0]),
}
NAMES = {
    3: ["embeddings", "layer_0_to_1", "layer_2_to_3"],
    5: ["embeddings", "layer_0", "layer_1", "layer_2", "layer_3"],
    2: ["layer_2", "layer_3"],
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("case", RATES)
def test_rates_follow_the_formula(case, optimizer, data):
    words, factors = RATES[case]
    schedule = ["--lr-scheduler", "slanted_triangular", "--max-update", 20, "--warmup-ratio", 0.25]
    words = [*words, *schedule, "--optimizer", optimizer]
    trainer, batches = build_trainer(data, *words)
    for done in range(1, 12):
        log = update(trainer, batches, 1)
        p = done / 5 if done < 5 else 1 - (done - 5) / 15
        lr = 0.01 * (1 + p * 31) / 32
        assert log["lr"] == pytest.approx(lr, rel=1e-9)
        names = NAMES[len(factors)]
        for name, factor, settings in zip(names, factors, trainer.optimizer.param_groups):
            assert log[f"lr_{name}"] == settings["lr"] == pytest.approx(lr * factor, rel=1e-9)
        assert trainer.get_lr() == log["lr"]


def test_a_frozen_group_has_rate_zero_in_the_log(data):
    words = ["--finetune-groups", 2, "--unfreeze-schedule", "0:1,3:2"]
    trainer, batches = build_trainer(data, *words)
    log = update(trainer, batches, 2)
    assert (log["lr_layer_0_to_1"], log["lr_layer_2_to_3"]) == (0, 0.01)
    assert "lr_embeddings" not in log  # never trained
    log = update(trainer, batches, 1)  # the rate of the next update
    assert (log["lr_layer_0_to_1"], log["lr_layer_2_to_3"]) == (0.01, 0.01)


def test_rates_act(data):
    """The first update of Adam changes each value by the learning rate, or not at all."""
    words = ["--lr-decay-per-group", 0.5, "--weight-decay", 0, "--adam-eps", 1e-12]
    trainer, batches = build_trainer(data, *words)
    before = weights(trainer)
    update(trainer, batches, 1)
    for name, weight in weights(trainer).items():
        moved = (weight - before[name]).abs().max().item()
        assert moved == pytest.approx(0.01 * 0.5 ** (NUM_GROUPS - 1 - group_of(name)), rel=1e-3)


def test_half_precision_is_not_flattened(data):
    trainer, _ = build_trainer(data, "--fp16", "--fp16-no-flatten-grads", "--lr-decay-per-group", 1)
    assert len(trainer.optimizer.param_groups) == NUM_GROUPS
    assert not trainer.optimizer.has_flat_params
    trainer.cfg.common.fp16_no_flatten_grads = False
    rebuilt = type(trainer)(trainer.cfg, trainer.task, trainer.get_model(), trainer.get_criterion())
    assert rebuilt.cfg.common.fp16_no_flatten_grads


def test_the_model_s_own_freezing_stays(data, monkeypatch):
    from user_dir.models.gpt import GPTModel

    build = GPTModel.build_model.__func__

    def build_model(cls, cfg, task):
        model = build(cls, cfg, task)
        model.transformer.layers[3].fc1.requires_grad_(False)
        return model

    monkeypatch.setattr(GPTModel, "build_model", classmethod(build_model))
    trainer, batches = build_trainer(data, "--unfreeze-schedule", "0:1,2:all")
    before = weights(trainer)
    update(trainer, batches, 4)
    own = {name for name in before if "layers.3.fc1" in name}
    assert changed(before, weights(trainer)) == before.keys() - own


def test_without_options_nothing_changes(data):
    trainer, batches = build_trainer(data)
    assert trainer._finetuning_plan is None
    assert len(trainer.optimizer.param_groups) == 1
    assert not any(key.startswith("lr_") for key in update(trainer, batches, 1))


def test_a_schedule_that_ends_too_late_for_the_data(data, tmp_path):
    """Four updates an epoch, known when the data is loaded."""
    words = ["--unfreeze-schedule", "0:1,8:2", "--save-dir", tmp_path, "--max-epoch"]
    trainer, _ = build_trainer(data, *words, 3)
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    trainer, _ = build_trainer(data, *words, 2, "--update-freq", "1,2")  # not known
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    trainer, _ = build_trainer(data, *words, 2)
    with pytest.raises(UserError, match="update 8, is not before .* --max-epoch 2 .4 updates"):
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)


def test_resume_with_other_options_is_refused(tmp_path):
    path = str(tmp_path / "checkpoint.pt")
    saved = {"finetune_groups": 2, "lr_decay_per_group": 0.5, "unfreeze_schedule": None}
    torch.save({"cfg": {"optimization": saved}, "args": None, "model": {}}, path)
    check_resumed(path, Namespace(**saved))
    for change, message in (
        ({"finetune_groups": 3}, "--finetune-groups 2, now --finetune-groups 3: resume"),
        ({"lr_decay_per_group": None}, "--lr-decay-per-group 0.5, now no --lr-decay-per-group"),
        ({"unfreeze_schedule": "0:1"}, "no --unfreeze-schedule, now --unfreeze-schedule 0:1"),
    ):
        with pytest.raises(UserError, match=message):
            check_resumed(path, Namespace(**{**saved, **change}))


def test_resume_of_an_older_training_without_options(tmp_path):
    path = str(tmp_path / "checkpoint.pt")
    torch.save({"cfg": None, "args": Namespace(lr=[1.0]), "model": {}}, path)
    check_resumed(path, Namespace())
    with pytest.raises(UserError, match="no --freeze-all-but-last, now"):
        check_resumed(path, Namespace(freeze_all_but_last=1))
