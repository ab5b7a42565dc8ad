"""The reverse score of re-ranking: the scored tokens, and equality in parts and as a whole."""

from argparse import Namespace

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq_cli.interactive import make_batches

from fairtale.data.dialog.line_format import SEP
from fairtale.generation import mmi
from tests.dialog_helpers import (
    dialog_dataset,
    dialog_dictionary,
    dialog_model,
    dialog_task,
    logits_of,
)
from tests.helpers import random_rows

LIMIT = 20  # --max-target-positions of the reverse model
QUERIES = random_rows([1, 3, 19, 20, 27, 2, 5, 1, 8], seed=1)
REPLIES = random_rows([4, 1, 6, 2, 7, 30, 0, 5, 1], seed=2)


@pytest.fixture(params=[True, False], ids=["seq2seq", "causal"])
def reranker(request, monkeypatch):
    dictionary = dialog_dictionary(num_words=2000)  # 128 rows of logits are nearly 1 MiB
    model = dialog_model(dictionary, unilm=request.param, seed=2)
    task = dialog_task(dictionary, reverse=True, max_target_positions=LIMIT)
    task._options["seq2seq_prob"] = 1.0 if request.param else 0.0
    monkeypatch.setattr(
        mmi.checkpoint_utils,
        "load_model_ensemble_and_task",
        lambda *args, **kwargs: ([model], None, task),
    )
    return mmi.MMIReranker("reverse.pt", 0.5, "data", 1.0)


def directly(reranker, query, reply):
    """Return the log-probabilities of the tokens of one query, as far as the model reads it."""
    dictionary, task = reranker.task.dictionary, reranker.task
    words = [" ".join(dictionary[t] for t in side.tolist()) for side in (reply, query)]
    dataset = dialog_dataset([f" {SEP} ".join(words)], dictionary, task.limits)
    batch = dataset.collater([dataset[0]])
    lprobs = logits_of(reranker.model, batch, task.option("seq2seq_prob") > 0).log_softmax(-1)
    own = lprobs.gather(1, batch["target"][0].unsqueeze(1)).squeeze(1)
    return own[batch["response_mask"][0]]


def test_the_score_is_the_mean_over_the_tokens_that_are_scored(reranker):
    own = [directly(reranker, query, reply) for query, reply in zip(QUERIES, REPLIES)]
    assert [len(o) for o in own] == [min(len(q) + 1, LIMIT) for q in QUERIES]
    expected = torch.stack([o.mean() for o in own])
    torch.testing.assert_close(reranker.score(QUERIES, REPLIES), expected, atol=1e-5, rtol=1e-5)
    reranker.len_penalty = None
    expected = torch.stack([o.sum() for o in own])
    torch.testing.assert_close(reranker.score(QUERIES, REPLIES), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 50])
def test_cutting_into_batches_and_chunks_changes_nothing(max_tokens, reranker, monkeypatch):
    calls = {"batches": 0, "projections": 0}
    whole = reranker.score(QUERIES, REPLIES)

    def count(name, function):
        def counted(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(reranker.model, "forward", count("batches", reranker.model.forward))
    monkeypatch.setattr(mmi.F, "cross_entropy", count("projections", mmi.F.cross_entropy))
    reranker.score(QUERIES, REPLIES)
    assert calls == {"batches": 1, "projections": 1}
    monkeypatch.setattr(mmi, "MAX_TOKENS", max_tokens)
    monkeypatch.setattr(mmi, "chunk_rows", lambda *args: 3)
    parts = reranker.score(QUERIES, REPLIES)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert 1 + 1 < calls["batches"] <= 1 + len(QUERIES)
    assert calls["projections"] > 1 + sum(len(query) for query in QUERIES) / 3 / 2


def test_what_is_projected_does_not_grow_with_the_number_of_replies(reranker, monkeypatch):
    """Return the rows of features and of logits that are computed at a time for 600 replies."""
    features, logits = [], []
    forward, cross_entropy = reranker.model.forward, mmi.F.cross_entropy

    def watched_forward(**net_input):
        out = forward(**net_input)
        features.append(out[0])
        return out

    def watched_cross_entropy(rows, *args, **kwargs):
        logits.append(rows)
        return cross_entropy(rows, *args, **kwargs)

    monkeypatch.setattr(reranker.model, "forward", watched_forward)
    monkeypatch.setattr(mmi.F, "cross_entropy", watched_cross_entropy)
    monkeypatch.setattr(mmi, "LOGITS_MIB", 1)
    monkeypatch.setattr(mmi, "MAX_TOKENS", 4000)
    queries, replies = [QUERIES[3]] * 600, random_rows([6] * 600, seed=3)
    reranker.score(queries, replies)
    channels = reranker.model.output_weight().size(1)
    assert len(features) > 2
    assert all(f.size(-1) == channels and f.size(1) <= 4000 for f in features)  # no logits
    assert sum(len(rows) for rows in logits) == 600 * LIMIT  # of responses only
    assert 2**19 < max(rows.numel() * 4 for rows in logits) <= 2**20


def test_no_replies(reranker):
    assert reranker.score([], []).shape == (0,)


def interactive(task, model, lines, buffer_size, batch_size):
    """Answer lines as fairseq-interactive does; return the numbers of the S- lines, unsorted."""
    cfg = FairseqConfig()
    cfg.dataset.batch_size, cfg.generation.constraints = batch_size, None
    generator = task.build_generator([model], Namespace(beam=2, max_len_b=4))
    numbers = []
    for start in range(0, len(lines), buffer_size):
        buffer = lines[start : start + buffer_size]
        for batch in make_batches(buffer, cfg, task, None, lambda text: text):
            net_input = {"src_tokens": batch.src_tokens, "src_lengths": batch.src_lengths}
            task.inference_step(generator, [model], {"net_input": net_input})
            numbers += [start + number for number in batch.ids.tolist()]
    return numbers


@pytest.mark.parametrize("buffer_size, batch_size", [(1, 1), (3, 1), (3, 2), (5, 5)])
def test_scores_bear_the_numbers_of_the_input_lines(buffer_size, batch_size, reranker, capsys):
    """Lines from long to short, the first twice; each is printed with its own scores."""
    dictionary = reranker.task.dictionary
    task, model = dialog_task(dictionary), dialog_model(dictionary, seed=1)
    task._reranker, task._options["seq2seq_prob"] = reranker, 1.0
    lines = ["w1 w2 w3 w4 w5", "w6\tw7 w8", "w9", "w1 w2 w3 w4 w5", "w3"]
    alone = []
    for number, line in enumerate(lines):
        interactive(task, model, [line], 1, 1)
        columns = [row.split("\t")[1:] for row in capsys.readouterr().out.splitlines()]
        alone += [(f"M-{number}", *column) for column in columns]
    task.lines_before = task._lines_read = 0
    numbers = interactive(task, model, lines, buffer_size, batch_size)
    found = [tuple(row.split("\t")) for row in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in found] == [f"M-{n}" for n in numbers for _ in range(2)]
    assert sorted(found) == alone
