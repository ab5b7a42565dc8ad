"""Parameters are divided into groups as the options say."""

from types import SimpleNamespace

import pytest
from torch import nn

from fairtale.errors import UserError
from fairtale.optim.parameter_groups import plan_finetuning
from tests.gate_helpers import ALL, gated_model
from tests.helpers import tiny_model


def plan(model=None, criterion=None, lr=0.1, max_update=0, **options):
    model = model or tiny_model(num_layers=5)
    optimization = SimpleNamespace(lr=[lr], max_update=max_update, max_epoch=0, **options)
    return plan_finetuning(model, criterion or nn.Identity(), optimization)


def names(made):
    return [group.name for group in made.groups]


def factors(made):
    return [group.factor for group in made.groups]


def test_no_options_no_plan():
    assert plan() is None


def test_layers_are_divided_evenly():
    made = plan(finetune_groups=2, lr_decay_per_group=0.5)
    assert names(made) == ["embeddings", "layer_0_to_2", "layer_3_to_4"]
    assert factors(made) == [0.25, 0.5, 1.0]
    assert made.num_frozen == 0
    parameters = {id(p) for group in made.groups for p in group.parameters}
    assert sum(len(group.parameters) for group in made.groups) == len(parameters)


def test_every_parameter_is_in_a_group():
    model = tiny_model(num_layers=5)
    made = plan(model, lr_decay_per_group=0.5)
    parameters = {id(p) for group in made.groups for p in group.parameters}
    assert parameters == {id(p) for p in model.parameters()}
    assert names(made) == ["embeddings", *(f"layer_{n}" for n in range(5))]


def test_the_final_norm_belongs_to_the_last_group():
    model = tiny_model(num_layers=5)
    made = plan(model, freeze_all_but_last=1)
    norm = model.transformer.layer_norm.weight
    assert any(norm is p for p in made.groups[-1].parameters)
    assert names(made) == ["layer_4"] and factors(made) == [1.0]
    assert not model.transformer.embed_tokens.weight.requires_grad
    assert made.num_frozen + made.groups[0].num_parameters == sum(
        p.numel() for p in model.parameters()
    )


def test_groups_divide_the_layers_that_are_trained():
    made = plan(freeze_all_but_last=4, finetune_groups=2, lr_per_group="0.01,0.2")
    assert names(made) == ["layer_1_to_2", "layer_3_to_4"]
    assert factors(made) == pytest.approx([0.1, 2.0])
    assert names(plan(freeze_all_but_last=2)) == ["layer_3_to_4"]


def test_encoder_and_decoder():
    model = gated_model(gated_attention=ALL)  # 2 + 2 layers
    made = plan(model, finetune_groups=2, lr_decay_per_group=0.5)
    assert names(made) == ["embeddings", "encoder_0_to_1", "decoder_0_to_1"]
    model = gated_model(gated_attention=ALL)
    made = plan(model, freeze_all_but_last=3)
    assert names(made) == ["encoder_1_to_decoder_1"]
    gates = [p for name, p in model.named_parameters() if "gate" in name]
    assert [p.requires_grad for p in gates].count(True) == 5  # 1 + 2 * 2


def test_parameters_of_the_criterion_are_trained():
    criterion = nn.Linear(2, 2)
    made = plan(criterion=criterion, freeze_all_but_last=1)
    assert criterion.weight.requires_grad
    assert any(criterion.weight is p for p in made.groups[-1].parameters)


def test_table():
    made = plan(finetune_groups=2, lr_decay_per_group=0.5, unfreeze_schedule="0:1,7:2", lr=0.2)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.table(0.2)]
    assert [line[0] for line in lines] == ["group", ":--", "frozen", "layer_0_to_2", "layer_3_to_4"]
    assert [line[2:] for line in lines[2:]] == [
        ["0", "never"],
        ["0.1", "update 7"],
        ["0.2", "the start"],
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"freeze_all_but_last": 6}, "--freeze-all-but-last 6: the model has 5 layers"),
        ({"freeze_all_but_last": 0}, "must be at least 1"),
        ({"finetune_groups": 6, "lr_decay_per_group": 0.5}, "more groups than the 5 layers"),
        ({"finetune_groups": 3, "freeze_all_but_last": 2}, "more groups than the 2 layers"),
        ({"finetune_groups": 0, "lr_decay_per_group": 0.5}, "must be at least 1"),
        ({"finetune_groups": 2}, "alone changes nothing"),
        ({"lr_decay_per_group": 0.0}, "must be above 0"),
        ({"lr_decay_per_group": 2.6}, "at most 1"),
        ({"lr_decay_per_group": float("nan")}, "above 0"),
        ({"finetune_groups": 2, "lr_per_group": "1,2"}, "2 rates for 3 groups"),
        ({"lr_per_group": "1,x"}, "write positive numbers"),
        ({"lr_per_group": "1,0"}, "write positive numbers"),
        ({"lr_per_group": "1,nan"}, "write positive numbers"),
        ({"lr_per_group": "1", "lr_decay_per_group": 0.5}, "contradict each other"),
        ({"freeze_all_but_last": 1, "unfreeze_schedule": "0:1"}, "contradict each other"),
        ({"unfreeze_schedule": "0:1,3:7"}, "7 groups, but there are only 6"),
        ({"unfreeze_schedule": "0:1,3:2", "max_update": 3}, "not before the end"),
        ({"unfreeze_schedule": "every:2", "max_update": 10}, "update 10, is not before the end"),
    ],
)
def test_refused(options, reason):
    with pytest.raises(UserError, match=reason):
        plan(**options)


def test_nothing_to_train_is_refused():
    model = tiny_model(num_layers=5)
    model.requires_grad_(False)
    with pytest.raises(UserError, match="no parameter is trained at the start"):
        plan(model, freeze_all_but_last=1)
