"""The options that rebuild a transformer are complete, or the checkpoint is refused."""

from argparse import ArgumentParser, Namespace

import pytest
import torch
from fairseq.models.transformer import TransformerModel

from fairtale.cli import transformer_options as verb
from fairtale.errors import UserError
from fairtale.pruning.transformer_options import FLAGS, REFUSED, VALUES, transformer_options
from tests.gate_helpers import plain_model, settings


def test_every_option_of_a_transformer_is_carried_or_refused():
    parser = ArgumentParser()
    TransformerModel.add_args(parser)
    known = {*VALUES, *FLAGS, *REFUSED}
    others = {action.dest for action in parser._actions} - known - {"help"}
    # options for training only; already applied; parts of refused options
    assert {name.removeprefix("encoder_").removeprefix("decoder_") for name in others} == {
        *("dropout", "attention_dropout", "activation_dropout", "relu_dropout", "layerdrop"),
        *("checkpoint_activations", "offload_activations", "min_params_to_wrap", "export"),
        *("embed_path", "layers_to_keep"),
        *("adaptive_softmax_dropout", "adaptive_softmax_factor", "quant_noise_pq_block_size"),
        *("base_sublayers", "base_shuffle"),
    }


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a checkpoint with other settings, and returns its path."""

    def write(args=None, **changes):
        args = settings(decoder_layers=1) if args is None else args
        for name, value in {"arch": "transformer", "task": "translation", **changes}.items():
            setattr(args, name, value)
        state = {
            "args": args,
            "model": plain_model(decoder_layers=1).state_dict(),
            "optimizer_history": [
                {
                    "num_updates": 1,
                    "optimizer_name": "",
                    "criterion_name": "",
                    "lr_scheduler_state": {},
                }
            ],
            "last_optimizer_state": None,
            "extra_state": {"epoch": 1, "train_iterator": {"epoch": 1}},
        }
        torch.save(state, tmp_path / "changed.pt")
        return str(tmp_path / "changed.pt")

    return write


def test_what_cannot_be_pruned_later_is_refused_now(save):
    with pytest.raises(UserError, match="architecture transformer_align is neither fairseq's"):
        transformer_options(save(arch="transformer_align"))


def test_options_that_rebuild_a_transformer(save):
    def options(**changes):
        return " ".join(transformer_options(save(**changes)))

    assert "--decoder-layers 1 " in options() and "final-norm" not in options()
    assert "--encoder-attention-heads 4 " in options()
    assert "--no-decoder-final-norm" in options(no_decoder_final_norm=True)
    assert "--decoder-layers 1 " in options(decoder_layers=6, decoder_layers_to_keep="4")
    refused = "trained with --adaptive-softmax-cutoff --no-cross-attention"
    with pytest.raises(UserError, match=refused):
        options(no_cross_attention=True, adaptive_softmax_cutoff=[50, 100])


def test_another_model_is_refused(save):
    with pytest.raises(UserError, match="not a transformer with encoder and decoder .encoder_emb"):
        transformer_options(save(Namespace()))
    with pytest.raises(UserError, match="nowhere.pt: no such file"):
        transformer_options("nowhere.pt")


def test_the_verb_prints_a_word_a_line(save, capsys):
    parser = ArgumentParser()
    verb.add_arguments(parser)
    verb.run(parser.parse_args([save()]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["--encoder-embed-dim", "16"] and "--decoder-attention-heads" in lines
