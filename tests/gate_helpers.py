"""Tiny fairseq transformers with and without gates."""

from argparse import Namespace
from types import SimpleNamespace

import torch
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import tiny_architecture

from tests.helpers import tiny_dictionary
from user_dir.models.transformer_hcg import TransformerHCGModel

SHAPE = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "dropout": 0.0,
}
ALL = "encoder,decoder,cross"


def translation_task():
    """Return what models and criterions ask of a task: one dictionary for both sides."""
    dictionary = tiny_dictionary()
    return SimpleNamespace(
        source_dictionary=dictionary, target_dictionary=dictionary, tgt_dict=dictionary
    )


def settings(**options):
    """Return the settings of a tiny transformer, under fairseq's flat names."""
    args = Namespace(**{**SHAPE, **options})
    tiny_architecture(args)
    return args


def plain_model(seed=0, **options):
    """Return fairseq's ``transformer``: 2 + 2 layers of 4 heads, without dropout."""
    torch.manual_seed(seed)
    return TransformerModel.build_model(settings(**options), translation_task())


def gated_model(seed=0, like=None, **options):
    """Return ``transformer_hcg`` of the same shape, with the weights of ``like``, gates open."""
    torch.manual_seed(seed)
    model = TransformerHCGModel.build_model(settings(**options), translation_task())
    if like is not None:
        model.load_state_dict(like.state_dict())
    return model


def translation_batch(sizes=((6, 5), (3, 4), (5, 2)), seed=0, vocab_size=24):
    """Return a batch of random sentences; sizes are (source, target) lengths without ends."""
    generator = torch.Generator().manual_seed(seed)

    def words(n):
        return torch.randint(4, vocab_size, (n,), generator=generator).tolist()

    pairs = [(words(s), words(t)) for s, t in sizes]
    longest = max(s for s, _ in sizes) + 1, max(t for _, t in sizes) + 1
    src = torch.tensor([[1] * (longest[0] - 1 - len(s)) + s + [2] for s, _ in pairs])
    tgt = torch.tensor([t + [2] + [1] * (longest[1] - 1 - len(t)) for _, t in pairs])
    prev = torch.tensor([[2] + t + [1] * (longest[1] - 1 - len(t)) for _, t in pairs])
    return {
        "id": torch.arange(len(pairs)),
        "nsentences": len(pairs),
        "ntokens": int(tgt.ne(1).sum()),
        "net_input": {
            "src_tokens": src,
            "src_lengths": src.ne(1).sum(1),
            "prev_output_tokens": prev,
        },
        "target": tgt,
    }
