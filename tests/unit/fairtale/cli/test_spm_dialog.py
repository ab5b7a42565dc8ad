"""Dialogs as lines of pieces, where the text or the tokenizer spells the marks."""

import io

import pytest
import sentencepiece

from fairtale.cli.spm_dialog import DialogEncoder, LeftOut, add_marks, read_sides
from fairtale.cli.spm_encode import SentencePieces


@pytest.fixture(scope="module")
def processor():
    """A model that has learned "<SEP>", as ``spm train`` itself never does."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a<SEP>b<CTX>", "x<SEP>y ab"] * 50),
        model_writer=model,
        vocab_size=32,
        model_type="bpe",
        split_by_unicode_script=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def test_a_learned_mark_is_spelled(processor):
    assert "<SEP>" in processor.encode("x<SEP>a", out_type=str), "the test is void"
    texts, num_pieces, num_unknown = DialogEncoder(SentencePieces(processor), 3)(
        ["b\tx<SEP>a\tx<SEP>a"]
    )
    pieces = texts[0].split(" ")
    assert [piece for piece in pieces if piece in ("<SEP>", "<CTX>")] == ["<CTX>", "<SEP>"]
    assert "".join(pieces) == "▁b<CTX>▁x<SEP>a<SEP>▁x<SEP>a"
    assert num_pieces == len(pieces) and num_unknown == 0


def test_an_unknown_piece_cannot_spell_a_mark(processor):
    # all of "</s>" but its slash is known; SentencePiece would spell what is not
    texts, _, num_unknown = DialogEncoder(SentencePieces(processor), 9)(["a </s>\t가<unk>"])
    assert "</s>" not in texts[0].split(" ")
    assert num_unknown == texts[0].split(" ").count("<unk>") > 1


def test_lines_stay_in_their_places(processor):
    texts, num_pieces, _ = DialogEncoder(SentencePieces(processor), 3)(["a\tx", "a", "\ta", "x\ta"])
    assert texts[1:3] == [LeftOut("no response"), LeftOut("empty query")]
    assert [texts[i].replace(" ", "") for i in (0, 3)] == ["▁a<SEP>▁x", "▁x<SEP>▁a"]
    assert num_pieces == len(f"{texts[0]} {texts[3]}".split(" "))


def test_the_dictionary_has_each_mark_once():
    entries = [("▁a", 3), ("<SEP>", 2), ("b", 1)]
    assert add_marks(entries) == [("<CTX>", 0), ("<SEP>", 0), ("▁a", 3), ("b", 1)]


def test_learning_reads_query_and_response(tmp_path):
    (tmp_path / "a.tsv").write_text("old\tq\tr\nq2\tr2\nalone\n")
    assert list(read_sides(tmp_path / "a.tsv")) == ["q", "r", "q2", "r2", "alone"]
