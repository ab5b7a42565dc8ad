"""Replies: decoding in packed batches and one by one, steering, re-ranking."""

from argparse import Namespace

import pytest
import torch

from fairtale.data.dialog.line_format import SEP
from fairtale.errors import UserError
from fairtale.generation.mmi import MMIReranker
from tests.dialog_helpers import (
    answer,
    batch_of,
    dialog_dataset,
    dialog_dictionary,
    dialog_model,
    dialog_task,
    logits_of,
    random_lines,
    settled,
)

LINES = random_lines(6, seed=3)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_generate_and_interactive_write_the_same_replies(probability):
    dictionary = dialog_dictionary()
    task, model = settled(dialog_task(dictionary), probability), dialog_model(dictionary, seed=1)
    sample, packed = answer(task, model, LINES, from_dataset=True)
    _, prefixes = answer(task, model, LINES, from_dataset=False)
    alone = [answer(task, model, [line], from_dataset=True)[1][0] for line in LINES]
    for a, b, c in zip(packed, prefixes, alone):
        assert [h["tokens"].tolist() for h in a] == [h["tokens"].tolist() for h in b]
        assert [h["tokens"].tolist() for h in a] == [h["tokens"].tolist() for h in c]
    # source and reference are printed from the dialog
    for i, line in enumerate(LINES):
        shown = torch.cat([sample["net_input"]["src_tokens"][i], sample["target"][i]])
        words = dictionary.string(shown[shown != dictionary.pad()]).split()
        assert words == line.split()


@pytest.mark.parametrize("from_dataset", [True, False])
def test_replies_are_no_longer_than_those_that_were_learned(from_dataset):
    dictionary = dialog_dictionary()
    task = settled(dialog_task(dictionary, max_target_positions=4), 1.0)
    model = dialog_model(dictionary, seed=1)
    _, hypos = answer(task, model, LINES, from_dataset, max_len_b=30, min_len=3)
    assert {len(h["tokens"]) for group in hypos for h in group} == {4}  # one of them is EOS
    with pytest.raises(UserError, match="--min-len 4: a reply has at most 3 tokens"):
        answer(task, model, LINES, from_dataset, max_len_b=30, min_len=4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mmi_weight": 0.3}, "--mmi-weight 0.3: needs a reverse model"),
        ({"steer_weight": 1.0}, "--steer-weight 1.0: must be finite, and needs"),
        ({"steer_weight": float("nan"), "steer_words": "w"}, "--steer-weight nan"),
    ],
)
def test_weights_without_what_they_weigh_are_refused(options, message):
    task = dialog_task(**options)
    with pytest.raises(UserError, match=message):
        task.build_generator([dialog_model()], Namespace(beam=1))


def test_replies_hold_no_marks_and_respect_the_context():
    dictionary = dialog_dictionary(num_words=6)
    task = settled(dialog_task(dictionary, block_context_ngram=1), 1.0)
    model = dialog_model(dictionary, seed=1)
    line = f"w1 w2 {SEP} w3"
    _, hypos = answer(task, model, [line], True, beam=4, min_len=5)
    used = {t for h in hypos[0] for t in h["tokens"].tolist()}
    banned = {dictionary.index(w) for w in ("w1", "w2", SEP, "<CTX>")}
    assert used and not used & banned


@pytest.mark.parametrize("from_dataset", [True, False])
def test_turns_that_the_limits_have_cut_are_context(from_dataset):
    """In batches with prefixes of different lengths, also after sentences have ended."""
    dictionary = dialog_dictionary(num_words=8)
    model = dialog_model(dictionary, seed=1)
    lines = [f"w1 w2 w3 <CTX> w4 {SEP} w0", f"w5 {SEP} w0", f"w6 w1 <CTX> w2 {SEP} w0"]
    words = [{"w1", "w2", "w3", "w4"}, {"w5"}, {"w6", "w1", "w2"}]

    def used(**options):
        task = settled(dialog_task(dictionary, max_context_turns=0, **options), 1.0)
        _, hypos = answer(task, model, lines, from_dataset, beam=3, max_len_b=8)
        tokens = [{t for h in group for t in h["tokens"].tolist()} for group in hypos]
        return [{dictionary[t] for t in group} for group in tokens]

    assert any(found & own for found, own in zip(used(), words))  # or else nothing is shown
    assert not any(found & own for found, own in zip(used(block_context_ngram=1), words))


class TestMMI:
    """Re-ranking against scores computed directly."""

    @pytest.fixture
    def parts(self, monkeypatch):
        dictionary = dialog_dictionary()
        forward, reverse = dialog_model(dictionary, seed=1), dialog_model(dictionary, seed=2)
        task = settled(dialog_task(dictionary), 1.0)
        reverse_task = settled(dialog_task(dictionary, reverse=True), 1.0)
        from fairtale.generation import mmi

        monkeypatch.setattr(
            mmi.checkpoint_utils,
            "load_model_ensemble_and_task",
            lambda *args, **kwargs: ([reverse], None, reverse_task),
        )
        return task, forward, reverse

    def rerank(self, parts, weight, len_penalty=1.0):
        task, model, _ = parts
        task._reranker = None
        _, plain = answer(task, model, LINES, True, beam=4, nbest=4)
        task._reranker = MMIReranker("reverse.pt", weight, "data", len_penalty)
        _, ranked = answer(task, model, LINES, True, beam=4, nbest=4)
        return plain, ranked

    @staticmethod
    def tokens(hypos):
        return [[h["tokens"].tolist() for h in group] for group in hypos]

    def test_weight_zero_keeps_the_order(self, parts):
        plain, ranked = self.rerank(parts, 0.0)
        assert self.tokens(plain) == self.tokens(ranked)

    @pytest.mark.parametrize("len_penalty", [1.0, None])
    def test_weight_one_orders_by_the_reverse_score(self, parts, len_penalty):
        _, ranked = self.rerank(parts, 1.0, len_penalty)
        task, _, reverse = parts
        dictionary = task.dictionary
        for line, group in zip(LINES, ranked):
            query = line.split(SEP)[0].split("<CTX>")[-1].split()
            scores = []
            for hypo in group:
                reply = [dictionary[t] for t in hypo["tokens"].tolist() if t != dictionary.eos()]
                pair = dialog_dataset([f"{' '.join(reply or ['w0'])} {SEP} {' '.join(query)}"])
                batch = batch_of(pair)
                if not reply:
                    scores.append(
                        hypo["reverse_score"]
                    )  # an empty reply is not a valid line of data
                    continue
                lprobs = logits_of(reverse, batch, seq2seq=True).log_softmax(-1)
                own = lprobs.gather(1, batch["target"][0].unsqueeze(1)).squeeze(1)
                total = float(own[batch["response_mask"][0]].sum())
                scores.append(total / (len(query) + 1) if len_penalty else total)
            found = [h["reverse_score"] for h in group]
            assert found == pytest.approx(scores, rel=1e-4)
            assert found == sorted(found, reverse=True)

    def test_weights_outside_zero_and_one_are_refused(self, parts):
        with pytest.raises(UserError, match="--mmi-weight 2"):
            MMIReranker("reverse.pt", 2, "data", 1.0)

    def test_only_a_reverse_model_serves(self, parts, monkeypatch):
        from fairtale.generation import mmi

        task, model, _ = parts
        monkeypatch.setattr(
            mmi.checkpoint_utils,
            "load_model_ensemble_and_task",
            lambda *args, **kwargs: ([model], None, task),
        )
        with pytest.raises(UserError, match="not a reverse model"):
            MMIReranker("forward.pt", 0.5, "data", 1.0)


def test_replies_of_the_models_own_become_a_batch():
    dictionary = dialog_dictionary()
    task, model = settled(dialog_task(dictionary), 1.0), dialog_model(dictionary, seed=1)
    model.train()
    batch = batch_of(dialog_dataset(LINES, dictionary))
    own = task.write_replies(model, batch, 5)
    assert model.training
    sides, expected = own["net_input"]["sides"], batch["net_input"]["sides"]
    assert torch.equal(sides["prefix_lengths"], expected["prefix_lengths"])
    _, greedy = answer(task, model.eval(), LINES, True, beam=1, max_len_b=5)
    expected = [t for group in greedy for t in group[0]["tokens"].tolist()]
    assert own["target"][own["response_mask"]].tolist() == expected


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_replies_are_scored_as_the_training_forward_scores_them(probability):
    """A model trained without seq2seq updates reads the prefix causally when it decodes, too."""
    dictionary = dialog_dictionary()
    task, model = settled(dialog_task(dictionary), probability), dialog_model(dictionary, seed=1)
    line = LINES[0]
    _, hypos = answer(task, model, [line], True, beam=1)
    reply = [dictionary[t] for t in hypos[0][0]["tokens"].tolist()[:-1]]
    assert reply
    batch = batch_of(dialog_dataset([f"{line.split(SEP)[0]} {SEP} {' '.join(reply)}"], dictionary))
    lprobs = logits_of(model, batch, seq2seq=probability > 0).log_softmax(-1)
    own = lprobs.gather(1, batch["target"][0].unsqueeze(1)).squeeze(1)
    expected = own[batch["response_mask"][0]]
    torch.testing.assert_close(hypos[0][0]["positional_scores"], expected, atol=1e-5, rtol=1e-4)


def test_a_tab_within_a_turn_separates_no_turns(tmp_path):
    """A caller that names the turns one by one may hold any text in them."""
    task = settled(dialog_task(dialog_dictionary(), data=str(tmp_path)), 1.0)
    with_tab, _, _ = task.reply_input(["w1\tw2", "w3"], torch.device("cpu"))
    with_space, _, _ = task.reply_input(["w1 w2", "w3"], torch.device("cpu"))
    assert with_tab["src_tokens"].tolist() == with_space["src_tokens"].tolist()
