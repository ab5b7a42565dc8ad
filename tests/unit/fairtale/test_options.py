"""fairseq's command lines: what is missing, amended, refused, and how a command computes."""

from argparse import ArgumentParser, Namespace

import pytest
import torch
from fairseq import options as fairseq_options
from fairseq import tasks
from fairseq.tasks import TASK_REGISTRY
from omegaconf import OmegaConf

import user_dir  # noqa: F401  (cures fairseq and registers what is looked up)
from fairtale import options
from fairtale.errors import UserError
from fairtale.options import (
    check_options,
    check_words,
    short_usage_error,
    words_of_base,
    words_of_checkpoint,
)
from tests.compat_helpers import parse


def test_the_parser_is_wrapped_once():
    wrapper = fairseq_options.parse_args_and_arch
    options.install()
    assert fairseq_options.parse_args_and_arch is wrapper
    chain = [wrapper]
    while hasattr(chain[-1], "__wrapped__"):
        chain.append(chain[-1].__wrapped__)
    files = [function.__code__.co_filename for function in chain]
    assert files.count(options.__file__) == 1 and files[-1] == fairseq_options.__file__


def test_missing_architecture_or_checkpoint():
    parser = ArgumentParser()
    parser.add_argument("--arch")
    with pytest.raises(UserError, match="--arch is missing"):
        check_words(parser, ["data"])
    check_words(parser, ["data", "--arch=gpt_tiny"])
    check_words(parser, ["--help"])
    parser = ArgumentParser()
    parser.add_argument("--path")
    parser.add_argument("--arch", default="wav2vec2")  # as fairseq-generate has it
    with pytest.raises(UserError, match="--path is missing"):
        check_words(parser, ["data"])
    check_words(parser, ["data", "--path", "x.pt"])


def test_restore_file_must_exist(tmp_path):
    with pytest.raises(UserError, match="--restore-file nowhere.pt: no such file"):
        check_options(Namespace(restore_file="nowhere.pt"), cuda=False)
    (tmp_path / "a.pt").touch()
    for name in ("checkpoint_last.pt", str(tmp_path / "a.pt"), "s3://bucket/a.pt"):
        check_options(Namespace(restore_file=name), cuda=False)
    check_options(Namespace(), cuda=False)


def test_fp16_needs_a_gpu():
    args = {"fp16": True, "memory_efficient_fp16": False, "fp16_no_flatten_grads": False}
    args = Namespace(update_freq=[1], cpu=False, **args)
    check_options(args, cuda=True)
    with pytest.raises(UserError, match="--fp16 .* --bf16"):
        check_options(args, cuda=False)
    args.cpu = True
    with pytest.raises(UserError, match="--fp16"):
        check_options(args, cuda=True)
    args.fp16_no_flatten_grads = True
    check_options(args, cuda=True)


def test_adapters_need_a_base(tmp_path):
    args = Namespace(
        lora_rank=4,
        save_dir=str(tmp_path),
        restore_file="checkpoint_last.pt",
        finetune_from_model=None,
    )
    with pytest.raises(UserError, match="--lora-rank 4: .* --finetune-from-model CHECKPOINT"):
        check_options(args, cuda=False)
    check_options(Namespace(**{**vars(args), "finetune_from_model": "base.pt"}), cuda=False)
    check_options(Namespace(**{**vars(args), "lora_rank": 0}), cuda=False)
    (tmp_path / "checkpoint_last.pt").touch()  # a training that is resumed
    check_options(args, cuda=False)


@pytest.mark.parametrize(
    "message, told",
    [
        ("unrecognized arguments: --samplin-topk 5", "did you mean --sampling-topk?"),
        ("unrecognized arguments: --zzz", "--help lists all options"),
        ("argument --x: invalid choice: 'b' (choose from 'a', 'c')", "(choose from 'a', 'c')"),
    ],
)
def test_usage_in_one_line(message, told, capsys):
    parser = ArgumentParser()
    parser.add_argument("--sampling-topk")
    with pytest.raises(SystemExit) as error:
        short_usage_error(parser, message)
    assert error.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and told in err and err.count("\n") == 1


def test_long_lists_of_choices_are_left_out(capsys):
    names = [f"transformer_{i}" for i in range(100)] + ["gpt_tiny"]
    parser = ArgumentParser()
    choices = ", ".join(repr(name) for name in names)
    message = f"argument --arch/-a: invalid choice: 'gpt_tini' (choose from {choices})"
    with pytest.raises(SystemExit):
        short_usage_error(parser, message)
    err = capsys.readouterr().err
    assert "did you mean gpt_tiny" in err and len(err) < 200


# ----------------------------------------------------------- what the checkpoint is asked for


def checkpoint(folder, task, **task_state):
    """Write a checkpoint that holds settings only, and return the words that name it."""
    path = folder / "checkpoint.pt"
    state = {"cfg": {"task": {"_name": task}}, "args": None, "task_state": task_state}
    torch.save({**state, "model": {}}, path)
    return ["data", "--path", str(path)]


def test_a_checkpoint_knows_its_task(tmp_path):
    words = checkpoint(tmp_path, "story_lm")
    assert words_of_checkpoint(words) == ["--task", "story_lm"]
    assert words_of_checkpoint([*words, "--task", "story_lm"]) == []
    torch.save({"args": Namespace(task="dialog_lm"), "model": {}}, words[-1])  # of an older fairseq
    assert words_of_checkpoint(words) == ["--task", "dialog_lm"]
    # a task that nobody has registered is left to fairseq's own error
    assert words_of_checkpoint(checkpoint(tmp_path, "someone_elses")) == []


def test_a_checkpoint_knows_its_direction(tmp_path):
    words = checkpoint(tmp_path, "wmt16_translation", languages=["ru", "en"])
    direction = ["--source-lang", "ru", "--target-lang", "en"]
    assert words_of_checkpoint(words) == ["--task", "wmt16_translation", *direction]
    assert words_of_checkpoint([*words, "--task", "wmt16_translation"]) == direction
    assert words_of_checkpoint([*words, "-s", "en"]) == ["--task", "wmt16_translation"]
    words = checkpoint(tmp_path, "wmt16_translation")  # trained by fairseq's own task
    assert words_of_checkpoint(words) == ["--task", "wmt16_translation"]


def test_only_local_checkpoints_are_asked(tmp_path):
    words = ["data", "--path", str(tmp_path / "nowhere.pt")]
    with pytest.raises(UserError, match="--path .*nowhere.pt: no such file"):
        words_of_checkpoint(words)
    for more in (["--arch", "gpt"], ["--checkpoint-shard-count", "2"], ["--task", "story_lm"]):
        assert words_of_checkpoint([*words, *more]) == []
    assert words_of_checkpoint(["data", "--path", "s3://bucket/a.pt"]) == []
    assert words_of_checkpoint(["data"]) == []


# ------------------------------------------------- a training that starts from a checkpoint


MODEL = {
    "_name": "gpt_tiny",
    "activation_fn": "relu",
    "decoder_embed_dim": 32,
    "decoder_layers": 2,
    "dropout": 0.3,
    "layer_norm_eps": 1e-05,
    "max_target_positions": 48,
    "untied_output": True,
    "checkpoint_activations": False,
    "of_a_later_version": 1,
}


def base(folder, task="story_lm", model=MODEL, **task_state):
    """Write a checkpoint to start from, and return the words that name it."""
    path = folder / "base.pt"
    cfg = {"task": {"_name": task}, "model": model}
    torch.save({"cfg": cfg, "args": None, "task_state": task_state, "model": {}}, path)
    return ["data", "--finetune-from-model", str(path)]


def pairs(words):
    """Return the options among words, each with the word behind it."""
    return {
        word: "" if following.startswith("--") else following
        for word, following in zip(words, [*words[1:], "--"])
        if word.startswith("--")
    }


def test_a_training_has_the_shape_of_its_base(tmp_path):
    words = base(tmp_path, tokens_per_sample=40, dictionary="abc")
    expected = {
        "--arch": "gpt_tiny",
        "--task": "story_lm",
        "--tokens-per-sample": "40",
        "--activation-fn": "relu",
        "--decoder-embed-dim": "32",
        "--decoder-layers": "2",
        "--dropout": "0.3",
        "--layer-norm-eps": "1e-05",
        "--max-target-positions": "48",
        "--untied-output": "",
    }
    assert pairs(words_of_base(words)) == expected
    given = ["--dropout", "0.1", "--tokens-per-sample=20", "--task", "story_lm"]
    rest = expected.keys() - {"--dropout", "--tokens-per-sample", "--task"}
    assert pairs(words_of_base([*words, *given])).keys() == rest
    same = ["--decoder-layers", "2", "--layer-norm-eps", "0.00001", "--untied-output"]
    assert pairs(words_of_base([*words, *same])).keys() == expected.keys() - set(same)
    # the stored options of a task mean nothing to another
    assert "--tokens-per-sample" not in words_of_base([*words, "--task", "dialog_lm"])


@pytest.mark.parametrize(
    "given", [["--decoder-layers", "3"], ["--activation-fn=gelu"], ["--max-target-positions", "40"]]
)
def test_an_option_that_contradicts_the_weights(given, tmp_path):
    option = given[0].split("=")[0]
    with pytest.raises(UserError, match=rf"{option} \w+: the weights of .*base.pt need \w+: leave"):
        words_of_base([*base(tmp_path), *given])
    if option == "--activation-fn":
        tied = {**MODEL, "untied_output": False}
        with pytest.raises(UserError, match="--untied-output"):
            words_of_base([*base(tmp_path, model=tied), "--untied-output"])


def test_an_option_of_the_model_may_also_be_the_tasks(tmp_path):
    """``dialog_lm`` has its own --max-target-positions, from which it computes the model's."""
    model = {**MODEL, "_name": "unilm_seq2seq_tiny", "max_target_positions": 96}
    words = base(tmp_path, "dialog_lm", model, max_target_positions=30, reverse=True)
    found = pairs(words_of_base(words))
    assert found["--max-target-positions"] == "30" and found["--reverse"] == ""
    assert "--max-target-positions" not in words_of_base([*words, "--max-target-positions", "20"])


def test_only_a_model_that_declares_its_shape_is_asked(tmp_path):
    words = base(tmp_path)
    for more in (["--arch", "gpt_tiny"], ["-a", "gpt_tiny"], ["--help"]):
        assert words_of_base([*words, *more]) == []
    assert words_of_base(["data"]) == []
    assert words_of_base(["data", "--finetune-from-model", "s3://bucket/a.pt"]) == []
    assert words_of_base(base(tmp_path, model={"_name": "transformer_iwslt_de_en"})) == []
    with pytest.raises(UserError, match="--finetune-from-model nowhere.pt: no such file"):
        words_of_base(["data", "--finetune-from-model", "nowhere.pt"])


# -------------------------------------------------------------------- how a command computes


@pytest.mark.parametrize(
    ("task", "fast"),
    [
        ("story_lm", True),
        ("dialog_lm", True),
        ("wmt16_translation", True),
        ("dialog_nat", True),
        ("translation", False),
        (None, False),
    ],
)
def test_a_task_chooses_the_arithmetic_of_its_commands(task, fast, monkeypatch):
    chosen = []
    monkeypatch.setattr(options, "choose_fast_fp32_products", lambda: chosen.append(True))
    options.choose_arithmetic(TASK_REGISTRY.get(task))
    assert chosen == [True] * fast


def test_the_arithmetic_is_chosen_when_a_task_is_set_up(monkeypatch, tmp_path):
    """Whichever way a command got its options: fairseq's parser, Hydra, or a checkpoint."""
    asked = []
    monkeypatch.setattr(options, "choose_arithmetic", asked.append)
    parse("--task", "story_lm", "--arch", "gpt_tiny")
    assert asked == []
    (tmp_path / "dict.txt").write_text("a 1\n")
    cfg = OmegaConf.create({"task": {"_name": "story_lm", "data": str(tmp_path)}})
    task = tasks.setup_task(cfg.task)
    assert asked == [task]
