"""``dialog_nat``: what trains ``mask_predict``, how it answers, what is refused."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from fairtale.data.dialog.line_format import SEP
from fairtale.errors import UserError
from tests.dialog_helpers import (
    answer,
    dialog_dataset,
    dialog_dictionary,
    dialog_model,
    encode,
    random_lines,
)
from tests.dialog_helpers import batch_of as collate
from tests.helpers import write_split
from user_dir.criterions.label_smoothed_kl import (
    LabelSmoothedKLCriterion,
    LabelSmoothedKLCriterionConfig,
)
from user_dir.models.mask_predict import MaskPredictConfig, MaskPredictModel
from user_dir.models.unilm_seq2seq import UniLMSeq2SeqConfig
from user_dir.tasks.dialog_lm import DialogLMConfig, DialogLMTask
from user_dir.tasks.dialog_nat import DialogNATConfig, DialogNATTask

LINES = random_lines(9, seed=3)
TINY = {
    "decoder_embed_dim": 8,
    "decoder_ffn_embed_dim": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 1,
}


def nat_task(**options):
    options = {"max_source_positions": 40, "max_target_positions": 20, **options}
    return DialogNATTask(DialogNATConfig(**options), dialog_dictionary())


def nat_model(seed=0):
    dictionary = dialog_dictionary()
    transformer = dialog_model(dictionary, seed=seed).transformer
    return MaskPredictModel(dictionary, transformer).eval()


@pytest.fixture
def task(tmp_path):
    """A task with a split ``train`` of :data:`LINES`."""
    dictionary = dialog_dictionary()
    write_split(tmp_path, "train", [encode(dictionary, x)[:-1] for x in LINES], len(dictionary))
    task = nat_task(data=str(tmp_path))
    task.load_dataset("train")
    return task


# -------------------------------------------------------------------------------- training


def test_the_loss_is_that_of_hidden_tokens_and_lengths(task):
    model, batch = nat_model(), collate(task.dataset("train"))
    criterion = LabelSmoothedKLCriterion(LabelSmoothedKLCriterionConfig(sentence_avg=False), task)
    optimizer = SimpleNamespace(backward=lambda loss: loss.backward())
    torch.manual_seed(1)
    shown = task.hide(batch)
    torch.manual_seed(1)
    loss, tokens, log = task.train_step(batch, model, criterion, optimizer, 1)
    assert model.training and "nbytes" not in log
    lprobs = model(**shown["net_input"])[0].log_softmax(-1)
    kept = shown["target"].ne(task.dictionary.pad())
    wanted = -lprobs[kept].gather(1, shown["target"][kept].unsqueeze(1)).sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert tokens == int(kept.sum()) > len(LINES)


def test_a_validation_hides_the_same_tokens_each_time(task):
    seen = []

    def criterion(model, sample):
        seen.append(sample["target"])
        return 0, 1, {}

    model = nat_model().train()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for _ in range(2):
        task.valid_step(collate(task.dataset("train")), model, criterion)
    assert torch.equal(*seen) and not model.training
    assert torch.equal(torch.get_rng_state(), before)  # training goes on as without a validation


def test_a_new_model_gets_the_positions_of_the_limits():
    task = nat_task(max_source_positions=50, max_target_positions=20)
    cfg = OmegaConf.structured(MaskPredictConfig("mask_predict", max_target_positions=20, **TINY))
    assert task.build_model(cfg).max_positions() == 50


def test_other_models_are_refused():
    cfg = OmegaConf.structured(UniLMSeq2SeqConfig("unilm_seq2seq", **TINY))
    with pytest.raises(UserError, match="UniLMSeq2SeqModel is not trained by --task dialog_nat"):
        nat_task().build_model(cfg)


# ------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("from_dataset", [True, False])
def test_a_reply_does_not_depend_on_its_batch(from_dataset):
    task, model = nat_task(), nat_model()
    options = {"beam": 3, "iter_decode_max_iter": 3, "max_len_b": 9}
    together = answer(task, model, LINES, from_dataset, **options)[1]
    for line, replies in zip(LINES, together, strict=True):
        ((*alone,),) = answer(task, model, [line], True, **options)[1]
        assert [r["tokens"].tolist() for r in alone] == [r["tokens"].tolist() for r in replies]
        scores = [torch.stack([r["score"] for r in group]) for group in (alone, replies)]
        assert torch.allclose(*scores, atol=1e-4)
        assert {len(r["tokens"]) for r in replies} <= set(range(2, 11)) and len(replies) == 3


def test_it_answers_as_its_packed_form_predicts():
    """One pass, one length: the most probable tokens of a reply that is hidden as a whole."""
    task, model = nat_task(), nat_model(seed=4)
    words = task.dictionary
    replies = answer(task, model, LINES[:1], True, beam=1, iter_decode_max_iter=0)[1]
    tokens = replies[0][0]["tokens"][:-1]
    line = f"{LINES[0].split(SEP)[0]} {SEP} {' '.join(['w1'] * len(tokens))}"
    net_input = collate(dialog_dataset([line]))["net_input"]
    net_input["src_tokens"][0, -len(tokens) :] = words.unk()
    with torch.no_grad():
        logits = model(**net_input)[0][0]
    assert int(logits[-len(tokens) - 1, 5 : 4 + 20].argmax()) + 1 == len(tokens)
    special = [words.pad(), words.eos(), words.bos(), words.unk(), task.ctx, task.sep]
    logits[:, special] = -torch.inf
    assert torch.equal(logits[-len(tokens) :].argmax(1), tokens)


# -------------------------------------------------------------------------------- refusals


def test_other_models_criterions_and_commands_are_refused(task):
    with pytest.raises(UserError, match="--criterion nat_loss: dialog_nat needs label_smoothed_kl"):
        task.build_criterion(Namespace(_name="nat_loss"))
    with pytest.raises(UserError, match="fairseq-validate computes its loss"):
        task.eval_lm_dataloader(dataset=task.dataset("train"), context_window=0)
    with pytest.raises(UserError, match="--path: models of dialog_nat form no ensemble"):
        task.build_generator([nat_model(), nat_model()], Namespace())
    with pytest.raises(UserError, match="--sampling: has no effect"):
        task.build_generator([nat_model()], Namespace(sampling=True))
    with pytest.raises(UserError, match="--min-len 20: a reply has at most 19 tokens"):
        task.build_generator([nat_model()], Namespace(min_len=20))
    with pytest.raises(UserError, match="--max-target-positions 40: dialog_nat needs 44 entries"):
        nat_task(max_target_positions=40)
    other = DialogLMTask(DialogLMConfig(), dialog_dictionary())
    with pytest.raises(UserError, match="--arch mask_predict: .*DialogLMTask .*--task dialog_nat"):
        MaskPredictModel.build_model(None, other)
