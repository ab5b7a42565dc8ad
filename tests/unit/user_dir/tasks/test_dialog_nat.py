"""``dialog_nat``: the two sides of dialogs, what training hides, what generation refuses."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from fairseq.iterative_refinement_generator import IterativeRefinementGenerator
from fairseq.models import ARCH_CONFIG_REGISTRY, BaseFairseqModel
from fairseq.tasks.translation_lev import TranslationLevenshteinTask

from fairtale.data.dialog.line_format import SEP
from fairtale.errors import UserError
from tests.dialog_helpers import dialog_dictionary, encode, random_lines
from tests.helpers import write_split
from user_dir.tasks.dialog_nat import DialogNATConfig, DialogNATTask

LINES = random_lines(6, seed=3)


def nat_task(**options):
    options = {"max_source_positions": 40, "max_target_positions": 20, **options}
    return DialogNATTask(DialogNATConfig(**options), dialog_dictionary())


@pytest.fixture
def task(tmp_path):
    """A task with a split ``train`` of :data:`LINES`."""
    dictionary = dialog_dictionary()
    write_split(tmp_path, "train", [encode(dictionary, x)[:-1] for x in LINES], len(dictionary))
    task = nat_task(data=str(tmp_path))
    task.load_dataset("train")
    return task


def batch_of(task):
    dataset = task.dataset("train")
    return dataset.collater([dataset[i] for i in range(len(dataset))])


def test_pairs_are_the_prefixes_and_responses_with_both_marks(task):
    batch, dictionary = batch_of(task), task.dictionary
    begin, end = dictionary.bos(), dictionary.eos()
    for number, source, target in zip(
        batch["id"].tolist(), batch["net_input"]["src_tokens"], batch["target"]
    ):
        whole = encode(dictionary, LINES[number]).tolist()
        cut = whole.index(dictionary.index(SEP)) + 1
        assert source[source != dictionary.pad()].tolist() == [begin, *whole[:cut], end]
        assert target[target != dictionary.pad()].tolist() == [begin, *whole[cut:]]
    dataset = task.dataset("train")
    assert [len(dataset[i]["target"]) for i in range(len(dataset))] == dataset.tgt_sizes.tolist()


def test_interactive_prefixes_equal_those_of_the_data(task):
    batch = batch_of(task)
    asked = [encode(task.dictionary, LINES[i].split(SEP)[0] + SEP) for i in batch["id"].tolist()]
    dataset = task.build_dataset_for_inference(asked, [len(tokens) for tokens in asked])
    typed = dataset.collater([dataset[i] for i in range(len(dataset))])
    rows = [row[row != task.dictionary.pad()].tolist() for row in batch["net_input"]["src_tokens"]]
    found = [row[row != task.dictionary.pad()].tolist() for row in typed["net_input"]["src_tokens"]]
    assert sorted(found) == sorted(rows)


@pytest.mark.parametrize("noise", ["random_delete", "random_mask", "full_mask", "no_noise"])
def test_training_hides_what_fairseqs_own_task_hides(task, noise):
    """The same noise from the same random numbers, in training and in validation."""
    task.cfg.noise = noise
    seen = []

    class Criterion(torch.nn.Module):
        def forward(self, model, sample):
            seen.append(sample["prev_target"])
            return torch.zeros((), requires_grad=True), 1, {}

    model, criterion = BaseFairseqModel(), Criterion()
    batch = batch_of(task)
    optimizer = SimpleNamespace(backward=lambda loss: loss.backward())
    torch.manual_seed(1)
    task.train_step(batch, model, criterion, optimizer, 1)
    assert model.training
    task.valid_step(batch, model, criterion)
    assert not model.training and "prev_target" not in batch
    own = TranslationLevenshteinTask(Namespace(noise=noise), task.dictionary, task.dictionary)
    torch.manual_seed(1)
    assert all(torch.equal(own.inject_noise(batch["target"]), tokens) for tokens in seen)
    assert len(seen) == 2


def test_a_new_model_gets_the_positions_of_the_limits():
    task = nat_task(max_source_positions=50, max_target_positions=30)
    assert task.max_positions() == (51, 31)
    cfg = Namespace(
        _name="insertion_transformer",
        arch="insertion_transformer",
        max_source_positions=10,
        max_target_positions=90,
        encoder_embed_dim=8,
        encoder_ffn_embed_dim=8,
        encoder_layers=1,
        encoder_attention_heads=1,
        decoder_embed_dim=8,
        decoder_ffn_embed_dim=8,
        decoder_layers=1,
        decoder_attention_heads=1,
    )
    ARCH_CONFIG_REGISTRY["insertion_transformer"](cfg)
    model = task.build_model(cfg)
    assert (cfg.max_source_positions, cfg.max_target_positions) == (51, 90)
    assert model.max_positions() == (51, 90)


def test_generation_is_iterative_and_refuses_options_of_left_to_right_search():
    task = nat_task()
    generator = task.build_generator([], Namespace(iter_decode_max_iter=3))
    assert isinstance(generator, IterativeRefinementGenerator) and generator.max_iter == 3
    for options, message in (
        ({"sampling": True}, "--sampling: has no effect in non-autoregressive generation"),
        ({"no_repeat_ngram_size": 2}, "--no-repeat-ngram-size"),
        ({"temperature": 0.5}, "--temperature"),
        ({"min_len": 2}, "--min-len"),
        ({"nbest": 2}, "--nbest 2: this model generates one reply"),
    ):
        with pytest.raises(UserError, match=message):
            task.build_generator([], Namespace(**options))


def test_it_has_no_perplexity(task):
    with pytest.raises(UserError, match="fairseq-validate computes its loss"):
        task.eval_lm_dataloader(dataset=task.dataset("train"), context_window=0)
