"""``l0_gated``: options and trainings that are refused."""

import pytest

from fairtale.errors import UserError
from tests.criterion_helpers import fields_read, l0_gated
from tests.gate_helpers import gated_model, plain_model, translation_batch, translation_task
from user_dir.criterions.l0_gated import L0GatedCriterion, L0GatedCriterionConfig

TASK = translation_task()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"l0_penalty": 0.1, "target_heads": 2}, "--l0-penalty 0.1 and --target-heads 2: give one"),
        ({"l0_penalty": -0.1}, "--l0-penalty -0.1: must not be negative"),
        ({"l0_warmup_updates": -1}, "--l0-warmup-updates -1"),
        (
            {"gates_fix_update": 9, "max_update": 5},
            "--gates-fix-update 9: must be at most --max-update 5",
        ),
        (
            {"gates_fix_update": 9, "l0_warmup_updates": 10, "max_update": 50},
            "--gates-fix-update 9: must be at least --l0-warmup",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        l0_gated(TASK, **options)


@pytest.mark.parametrize(
    "model, options, message",
    [
        ("gated", {"target_heads": 9}, r"--target-heads 9: must be 0 to 8, .*encoder.0 4, enc"),
        ("gated", {"target_heads": -1}, "--target-heads -1: must be 0 to 8"),
        ("gated", {}, "give a goal for learning the gates"),
        ("plain", {"l0_penalty": 0.1}, "the model has no gates; use --arch transformer_hcg"),
        ("ungated", {"l0_penalty": 0.1}, "the model has no gates"),
    ],
)
def test_training_that_cannot_be(model, options, message, tmp_path):
    models = {
        "gated": lambda: gated_model(like=plain_model(), gated_attention="encoder"),
        "plain": plain_model,
        "ungated": lambda: gated_model(like=plain_model(), gated_attention=""),
    }
    criterion = l0_gated(TASK, save_dir=str(tmp_path), **options)
    with pytest.raises(UserError, match=message):
        criterion.train()(models[model]().train(), translation_batch())
    assert not list(tmp_path.iterdir())


def test_every_config_field_is_consumed():
    fields, read = fields_read(L0GatedCriterion, L0GatedCriterionConfig, TASK)
    assert read == fields and len(fields) == 14
