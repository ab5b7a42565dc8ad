"""A model that works learns a handful of real replies by heart, and answers with them."""

from argparse import Namespace
from itertools import islice

import pytest
import torch
from fairseq.data import Dictionary

from fairtale.data.corpus.vocabulary import token_bytes
from fairtale.data.dialog.dataset import DialogDataset
from fairtale.data.dialog.formats import read_dialogs
from fairtale.data.dialog.line_format import CTX, NUM_SEGMENTS, SEP
from fairtale.data.dialog.records import DialogReport
from fairtale.modules.chunked_loss import chunked_cross_entropy
from tests.dialog_helpers import batch_of, encode
from tests.helpers import build_transformer
from user_dir.models.mask_predict import MaskPredictModel
from user_dir.models.unilm_seq2seq import UniLMSeq2SeqModel
from user_dir.tasks.dialog_lm import DialogLMConfig, DialogLMTask
from user_dir.tasks.dialog_nat import DialogNATConfig, DialogNATTask

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
PAIRS, UPDATES = 55, 150
KINDS = {
    "unilm": (DialogLMTask, DialogLMConfig, UniLMSeq2SeqModel),
    "mask_predict": (DialogNATTask, DialogNATConfig, MaskPredictModel),
}


@pytest.fixture(scope="module")
def lines(realdata):
    """The first pairs of the corpus whose replies are not longer than 20 words."""
    dialogs = read_dialogs([str(realdata / "dialog" / "self_dialogue")], DialogReport(strict=True))
    pairs = ((d.turns[-2], d.turns[-1]) for d in dialogs if len(d.turns[-1].split()) <= 20)
    return [f"{asked} {SEP} {reply}" for asked, reply in islice(pairs, PAIRS)]


def train(task, model, batch):
    """Train on one batch, with the loss of hidden tokens or of the tokens that follow."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for update in range(UPDATES):
        torch.manual_seed(update)
        shown = task.hide(batch) if hasattr(task, "hide") else task.response_view(batch)
        keeps = shown["target"].ne(task.dictionary.pad())
        features = model(**shown["net_input"], features_only=True)[0][keeps]
        sums = chunked_cross_entropy(features, model.output_weight(), shown["target"][keeps])
        optimizer.zero_grad()
        (sums.loss / keeps.sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_replies_that_are_learned_by_heart(kind, lines):
    task_class, config, model_class = KINDS[kind]
    dictionary = Dictionary()
    for line in lines:
        dictionary.encode_line(line)
    for mark in (CTX, SEP):
        dictionary.add_symbol(mark)
    task = task_class(config(), dictionary)
    if kind == "unilm":
        task._options["seq2seq_prob"] = 1
    torch.manual_seed(1)
    shape = {"embed_dim": 128, "num_layers": 2, "num_heads": 4, "ffn_dim": 512}
    transformer = build_transformer(
        len(dictionary),
        dictionary.pad(),
        task.needed_positions,
        num_segments=NUM_SEGMENTS,
        bidirectional_prefix=True,
        **shape,
    )
    model = model_class(dictionary, transformer)
    rows = [encode(dictionary, line) for line in lines]
    dialogs = DialogDataset(
        rows, dictionary, task.ctx, task.sep, task.limits, token_bytes(dictionary)
    )
    batch = batch_of(dialogs)
    train(task, model.train(), batch)
    generator = task.build_generator([model.eval()], Namespace(beam=1))
    replies = task.inference_step(generator, [model], batch)
    known = [
        dictionary.string(hypo[0]["tokens"]) == lines[i].split(f" {SEP} ")[1]
        for i, hypo in zip(batch["id"].tolist(), replies)
    ]
    print(f"{kind}: {sum(known)} of {len(known)} replies by heart")
    assert sum(known) >= 0.9 * PAIRS
