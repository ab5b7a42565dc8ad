"""The price and the budget of open heads, and what becomes of gates in training."""

import copy
import json
import logging
import math

import pytest
import torch
from fairseq.logging import metrics

from fairtale.errors import UserError
from tests.criterion_helpers import l0_gated, smoothed_kl
from tests.gate_helpers import (
    ALL,
    gated_model,
    plain_model,
    translation_batch,
    translation_task,
)
from user_dir.criterions.l0_gated import L0GatedCriterion

TASK = translation_task()
BATCH = translation_batch()


@pytest.fixture
def criterion(tmp_path):
    def build(**options):
        return l0_gated(TASK, **{"label_smoothing": 0.1, "save_dir": str(tmp_path), **options})

    return build


def _model(**options):
    options = {"gated_attention": "encoder", "gate_lr_scale": 32.0, **options}
    return gated_model(like=plain_model(), **options)


def _step(model, criterion, optimizer, update, batch=BATCH, parts=1):
    model.train()
    criterion.train()
    torch.manual_seed(update)  # as fairseq's trainer does
    optimizer.zero_grad()
    for _ in range(parts):
        model.set_num_updates(update)
        loss, size, log = criterion(model, batch)
        (loss / size).backward()
    optimizer.step()
    criterion.end_update(model, update + 1)  # as the hook of fairseq's training loop does
    return log


def _adam(model, lr=2e-3, **options):
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr, **options)


def _valid(model, criterion):
    model.eval()
    criterion.eval()
    with torch.no_grad():
        return criterion(model, BATCH)


def _num_open(model):
    return int(sum(gate.value().count_nonzero() for gate in model.gates().values()))


# ------------------------------------------------------------------------- the loss


def test_the_loss_is_the_smoothed_loss_and_lambda_times_the_mean_chance(criterion):
    model = _model(gated_attention=ALL)
    learned = criterion(l0_penalty=0.3)
    for i, gate in enumerate(model.gates().values()):
        gate.learn()
        gate.set_log_alpha(torch.randn(4) + i / 4)
    model.train()
    torch.manual_seed(1)
    loss, size, log = learned.train()(model, BATCH)
    torch.manual_seed(1)
    plain, plain_size, plain_log = smoothed_kl(TASK, label_smoothing=0.1).train()(model, BATCH)
    chances = {k: g.open_probability() for k, g in model.gates().items()}
    penalty = sum(
        torch.cat([p for key, p in chances.items() if key.startswith(kind)]).mean()
        for kind in ("encoder", "decoder", "cross")
    )
    assert size == plain_size == BATCH["ntokens"]
    assert loss.item() == pytest.approx((plain + 0.3 * penalty * size).item(), rel=1e-6)
    assert log["translation_loss"] == plain_log["loss"] and log["nll_loss"] == plain_log["nll_loss"]
    assert log["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert log["expected_cross"].item() == pytest.approx(
        sum(chances[f"cross.{i}"].sum().item() for i in range(2)), rel=1e-6
    )


def test_validation_has_the_translation_loss_alone(criterion):
    model = _model()
    learned = criterion(l0_penalty=0.3)
    _step(model, learned, _adam(model), 0)
    loss, _, log = _valid(model, learned)
    assert loss.item() == pytest.approx(log["translation_loss"].item(), rel=1e-6)
    assert log["loss"] == log["translation_loss"] and "gate_loss" not in log


def test_the_penalty_warms_up(criterion):
    model = _model()
    learned = criterion(l0_penalty=0.4, l0_warmup_updates=4)
    prices = []
    for update in (0, 2, 4, 6):
        model.set_num_updates(update)
        log = learned.train()(model.train(), BATCH)[2]
        chance = log["expected_encoder"].item() / 8
        prices.append(log["gate_loss"].item() / BATCH["ntokens"] / chance)
    assert prices == pytest.approx([0.0, 0.2, 0.4, 0.4], rel=1e-5)


def test_the_log_is_in_bits_and_counts_heads(criterion):
    model = _model()
    learned = criterion(l0_penalty=0.5)
    log = _step(model, learned, _adam(model), 0)
    with metrics.aggregate(new_root=True) as found:
        L0GatedCriterion.reduce_metrics([log, log])
    values = found.get_smoothed_values()
    bits = 1 / (BATCH["ntokens"] * math.log(2))
    assert values["loss"] == pytest.approx(log["loss"].item() * bits, abs=1e-3)
    assert values["translation_loss"] + values["gate_loss"] == pytest.approx(
        values["loss"], abs=2e-3
    )
    assert values["ppl"] == pytest.approx(2 ** (log["nll_loss"].item() * bits), abs=0.02)
    assert values["open_encoder"] == 8 and values["expected_encoder"] == pytest.approx(7.7, abs=0.1)
    assert "open_cross" not in values


# ------------------------------------------------------------------------ the budget


@pytest.mark.parametrize("target", [0, 3, 7])
def test_a_target_ends_at_exactly_as_many_open_heads(criterion, target):
    model = _model(gated_attention="encoder,cross")
    learned = criterion(target_heads=target, l0_warmup_updates=20, gates_fix_update=80)
    optimizer = _adam(model)
    for update in range(80):
        assert {gate.state for gate in model.gates().values()} <= {"learned", "untouched"}
        log = _step(model, learned, optimizer, update)
    expected = log["expected_encoder"] + log["expected_cross"]
    assert expected.item() < 9  # of 16: on its way before they are fixed
    order = torch.cat([gate.log_alpha.detach() for gate in model.gates().values()])
    best = set(order.topk(target).indices.tolist())
    values = torch.cat([gate.value() for gate in model.gates().values()])
    assert values.count_nonzero() == target and set(values.unique().tolist()) <= {0.0, 1.0}
    assert set(values.nonzero().flatten().tolist()) == best
    log = _step(model, learned, optimizer, 80)
    assert log["gate_loss"] == 0 and _num_open(model) == target


def test_a_target_is_held_after_every_update(criterion):
    """So that what is validated and saved has it too; it comes down from all heads."""
    for parts in (1, 3):
        model = _model()
        learned, optimizer = criterion(target_heads=2, l0_warmup_updates=4), _adam(model)
        for update in range(6):
            log = _step(model, learned, optimizer, update, parts=parts)
            assert log["gate_loss"] == 0
            expected = sum(gate.open_probability().sum() for gate in model.gates().values())
            wanted = min(0.99 * 8, max(2, 8 - 6 * (update + 1) / 4))
            assert expected.item() == pytest.approx(wanted, abs=1e-4)


def test_heads_compete_for_a_target(criterion):
    """Gradients of gates have no part that opens or closes them all alike."""
    model = _model()
    _step(model, criterion(target_heads=4), torch.optim.SGD(model.parameters(), lr=0.0), 0)
    gradients = torch.cat([gate.scaled_log_alpha.grad for gate in model.gates().values()])
    assert gradients.abs().max() > 1e-6
    assert abs(gradients.sum()) < 1e-4 * gradients.abs().max()


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(criterion):
    def train(model, optimizer, updates):
        learned = criterion(target_heads=3, l0_warmup_updates=3, gates_fix_update=8)
        for update in updates:
            _step(model, learned, optimizer, update)

    whole, first, second = _model(), _model(), gated_model(seed=5, gate_lr_scale=32.0)
    train(whole, _adam(whole), range(10))
    optimizer = _adam(first)
    train(first, optimizer, range(5))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second.load_state_dict(saved[0])
    optimizer = _adam(second)
    optimizer.load_state_dict(saved[1])
    train(second, optimizer, range(5, 10))
    for (name, expected), found in zip(whole.state_dict().items(), second.state_dict().values()):
        assert torch.equal(found, expected), name
    assert _num_open(second) == 3


# ------------------------------------------------------------------ states of the gates


def test_gates_of_a_plain_checkpoint_are_learned_from_the_first_update(criterion):
    model = _model()
    learned = criterion(l0_penalty=0.1)
    _valid(model, learned)
    assert {gate.state for gate in model.gates().values()} == {"untouched"}
    _step(model, learned, _adam(model), 0)
    assert {gate.state for gate in model.gates().values()} == {"learned"}


def test_a_penalty_fixes_gates_at_one_half(criterion, caplog):
    caplog.set_level(logging.INFO)
    model = _model()
    learned = criterion(l0_penalty=0.1, gates_fix_update=2)
    optimizer = _adam(model, lr=1e-9)
    _step(model, learned, optimizer, 0)
    # P(open) is one half at -0.7913
    model.gates()["encoder.0"].set_log_alpha(torch.tensor([-0.80, -0.78, 3.0, -9.0]))
    model.gates()["encoder.1"].set_log_alpha(-5.0)
    _step(model, learned, optimizer, 1)
    assert [gate.value().tolist() for gate in model.gates().values()] == [[0, 1, 1, 0], [0] * 4]
    assert "gates are fixed at 2 updates, 2 of 8 open" in caplog.text


@pytest.mark.parametrize("budget", [{"target_heads": 3}, {"l0_penalty": 0.1}])
def test_gates_are_fixed_at_the_end_of_the_last_update(criterion, budget):
    model = _model()
    learned, optimizer = criterion(gates_fix_update=2, max_update=2, **budget), _adam(model)
    for update, state in enumerate(("learned", "fixed")):
        _step(model, learned, optimizer, update)  # and no validation
        assert {gate.state for gate in model.gates().values()} == {state}


def _encoder_fixed():
    """Return a model whose encoder has 2 of 8 heads, and whose cross gates are new."""
    model = _model(gated_attention="encoder,cross")
    for key, gate in model.gates().items():
        if key.startswith("encoder"):
            # the closed ones seem to be the best of all, the open ones the worst
            gate.set_log_alpha(torch.tensor([-9.0, 9.0, 9.0, 9.0]))
            gate.fix([True, False, False, False])
    return model


@pytest.mark.parametrize("target, cross", [(2, 0), (5, 3), (10, 8)])
def test_a_target_counts_heads_that_were_fixed_before(criterion, target, cross):
    model = _encoder_fixed()
    learned = criterion(target_heads=target, l0_warmup_updates=20, gates_fix_update=80)
    optimizer = _adam(model)
    log = _step(model, learned, optimizer, 0)
    assert log["expected_encoder"] == 2
    for update in range(1, 80):
        log = _step(model, learned, optimizer, update)
    assert log["expected_cross"].item() == pytest.approx(cross, abs=0.1)
    values = {key: gate.value().tolist() for key, gate in model.gates().items()}
    assert values["encoder.0"] == values["encoder.1"] == [1, 0, 0, 0]
    assert sum(values["cross.0"] + values["cross.1"]) == cross


def test_a_penalty_leaves_heads_alone_that_were_fixed_before(criterion, caplog):
    caplog.set_level(logging.INFO)
    model = _encoder_fixed()
    learned = criterion(l0_penalty=0.4, gates_fix_update=1)
    log = _step(model, learned, _adam(model, lr=1e-9), 0)
    chance = model.gates()["cross.0"].log_alpha.new_tensor(2.5) - 0.33 * math.log(0.1 / 1.1)
    price = log["gate_loss"].item() / BATCH["ntokens"]
    assert price == pytest.approx(0.4 * chance.sigmoid().item(), rel=1e-5)  # of cross alone
    values = [gate.value().tolist() for gate in model.gates().values()]
    assert values == [[1, 0, 0, 0]] * 2 + [[1] * 4] * 2
    assert "10 of 16 open: {'encoder.0': [0], 'encoder.1': [0], 'cross.0': [0," in caplog.text


@pytest.mark.parametrize("target", [1, 11])
def test_a_target_beyond_what_is_fixed_and_what_is_learned(criterion, target):
    model = _encoder_fixed()
    message = (
        f"--target-heads {target}: must be 2 to 10, as 2 heads are fixed open .* 8 can be .*cr"
    )
    with pytest.raises(UserError, match=message):
        _step(model, criterion(target_heads=target), _adam(model), 0)


def test_fixed_gates_recover_without_price_and_noise(criterion, caplog):
    caplog.set_level(logging.INFO)
    model = _model()
    for gate in model.gates().values():
        gate.fix([True, False, False, True])
    recovery = criterion(target_heads=4)
    log = _step(model, recovery, _adam(model), 0)
    again = _step(model, recovery, _adam(model, lr=0.0), 1)
    assert log["gate_loss"] == 0 and again["loss"] < log["loss"]
    assert [gate.value().tolist() for gate in model.gates().values()] == [[1, 0, 0, 1]] * 2
    assert "gates are fixed, 4 of 8 open: recovery tuning" in caplog.text
    # neither price nor budget is needed
    _step(model, criterion(), _adam(model), 0)
    with pytest.raises(UserError, match="--target-heads 3: the gates .* are already fixed, 4 open"):
        _step(model, criterion(target_heads=3), _adam(model), 0)


@pytest.mark.parametrize("adam", [{}, {"weight_decay": 0.1}])
def test_a_frozen_decoder_stays_bit_equal(criterion, adam):
    plain = plain_model()
    model = gated_model(like=plain, freeze="decoder", dropout=0.3, gate_lr_scale=32.0)
    before = copy.deepcopy(model.state_dict())
    learned, optimizer = criterion(target_heads=2, gates_fix_update=6), _adam(model, **adam)
    for update in range(8):
        _step(model, learned, optimizer, update)
        _valid(model, learned)
    after = model.state_dict()
    decoder = [k for k in before if k.startswith("decoder.")]
    assert len(decoder) > 20 and all(torch.equal(after[k], before[k]) for k in decoder)
    encoder = [k for k in before if k.startswith("encoder.layers") and k.endswith("weight")]
    assert not any(torch.equal(after[k], before[k]) for k in encoder)


def test_a_wrapped_model_is_trained_as_a_bare_one(criterion):
    """Also by a wrapper that shows nothing of what it holds."""

    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **kwargs):
            return self.module(**kwargs)

        def set_num_updates(self, num_updates):
            self.module.set_num_updates(num_updates)

        def get_targets(self, *args):
            return self.module.get_targets(*args)

        def get_normalized_probs(self, *args, **kwargs):
            return self.module.get_normalized_probs(*args, **kwargs)

    losses = []
    for wrap in (lambda model: model, lambda model: Wrapper(Wrapper(model))):
        model = _model()
        learned, optimizer = criterion(target_heads=3, gates_fix_update=2), _adam(model)
        logs = [_step(wrap(model), learned, optimizer, update) for update in range(3)]
        losses.append([log["loss"].item() for log in logs])
        assert _num_open(model) == 3
    assert losses[0] == losses[1]


# ------------------------------------------------------------------------ the history


def test_each_validation_is_kept(criterion, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model = _model(gated_attention="encoder,cross")
    learned = criterion(l0_penalty=0.1, tensorboard_logdir=str(tmp_path / "tb"))
    optimizer = _adam(model)
    for update in range(4):
        _step(model, learned, optimizer, update)
        if update % 2:
            _valid(model, learned)
            _valid(model, learned)  # the second batch of a validation
    records = [json.loads(line) for line in (tmp_path / "gates.jsonl").open()]
    assert [record["update"] for record in records] == [0, 2, 4]
    assert records[1]["state"] == "learned"
    last = model.gates()["cross.1"]
    assert records[2]["open_probability"]["cross.1"] == pytest.approx(
        last.open_probability().tolist(), abs=1e-6
    )
    assert records[2]["value"]["cross.1"] == pytest.approx(last.value().tolist(), abs=1e-6)
    assert "gates @ 4 updates: encoder 8 of 8 open (4 4), expected 7." in caplog.text
    names = sorted(path.name for path in (tmp_path / "gates").iterdir())
    assert names == ["00000000.png", "00000002.png", "00000004.png"]
    assert list((tmp_path / "tb" / "gates").iterdir())


def test_a_validation_without_training_writes_nothing(criterion, tmp_path):
    _valid(_model(), criterion(l0_penalty=0.1))
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_there_is_a_history_and_a_hint(criterion, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = _model()
    _step(model, criterion(l0_penalty=0.1), _adam(model), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["gates.jsonl"]
    assert "pip install 'fairtale[plots]'" in caplog.text
