"""Gates on the heads of a transformer that plain fairseq has trained, by the real commands."""

import copy
import json
import socket

import pytest
import torch

from tests.cli.fairtale_command import assert_user_error, fairtale, reversed_sentences

SHAPE = (
    "--encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 4 "
    "--decoder-attention-heads 4 --share-all-embeddings --task translation"
).split()
TRAIN = (
    "--optimizer adam --lr 0.01 --lr-scheduler fixed --log-format json --log-interval 1 "
    "--no-epoch-checkpoints --data-buffer-size 0 --num-workers 0 --cpu --batch-size 10 "
    "--required-batch-size-multiple 1"
).split()
SMOOTHED = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1".split()
GATED = "--arch transformer_hcg_tiny --criterion l0_gated --label-smoothing 0.1".split()


@pytest.fixture(scope="module")
def data(fairseq, tmp_path_factory):
    """Twenty sentences and their words in reverse."""
    return reversed_sentences(fairseq, tmp_path_factory.mktemp("gates"), train=20, valid=5)


@pytest.fixture(scope="module")
def plain(fairseq, data, tmp_path_factory):
    """A checkpoint of fairseq's ``transformer`` by fairseq without the plug-in."""
    folder = tmp_path_factory.mktemp("plain")
    words = [data, *SHAPE, *TRAIN, *SMOOTHED, "--arch", "transformer_tiny", "--max-update", 6]
    fairseq.run("train", *words, "--save-dir", folder, stock=True)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def pruned(fairseq, data, plain, tmp_path_factory):
    """The save dir of a training that leaves three heads, and its output."""
    folder = tmp_path_factory.mktemp("pruned")
    words = "--freeze decoder --weight-decay 0.1 --target-heads 3 --l0-warmup-updates 3"
    words += " --gates-fix-update 6 --max-update 8 --validate-interval-updates 2"
    done = train(fairseq, data, folder, plain, *GATED, *words.split())
    (folder / "train.log").write_text(done.out)
    return folder


def train(fairseq, data, folder, start, *words, **kwargs):
    words = [data, *SHAPE, *TRAIN, "--save-dir", folder, *words]
    if start is not None:
        words += ["--finetune-from-model", start]
    return fairseq.run("train", *words, **kwargs)


def weights(path):
    return torch.load(path, weights_only=False)["model"]


def assert_nearly_equal(one, two):
    """All weights except the biases of keys, whose gradient is only rounding error."""
    expected, found = (weights(folder / "checkpoint_last.pt") for folder in (one, two))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if not name.endswith("k_proj.bias"):
            assert torch.allclose(found[name].float(), value.float(), atol=2e-4), name


def test_a_plain_checkpoint_trains_on_as_in_fairseq(fairseq, data, plain, tmp_path):
    """Every loss and every weight is the same, to the last bit."""
    found = {}
    for name, words in (
        ("transformer_tiny", []),
        ("transformer_hcg_tiny", ["--gated-attention", "encoder,decoder,cross"]),
    ):
        words = ["--arch", name, *words, *SMOOTHED, "--max-update", 3, "--dropout", 0]
        done = train(fairseq, data, tmp_path / name, plain, *words)
        losses = [record["loss"] for record in done.logged("train_inner")]
        found[name] = losses, weights(tmp_path / name / "checkpoint_last.pt")
    (expected, state), (losses, gated) = found.values()
    assert losses == expected and len(losses) == 3
    assert {k for k in gated if ".gate" not in k and "gate_" not in k} == set(state)
    assert all(torch.equal(gated[name], value) for name, value in state.items())


def test_so_many_heads_stay_and_the_decoder_is_as_it_was(plain, pruned):
    before, after = weights(plain), weights(pruned / "checkpoint_last.pt")
    fixed = [after[f"encoder.layers.{i}.self_attn.gate.fixed"] for i in range(2)]
    assert sum(int(row.sum()) for row in fixed) == 3 and set(torch.cat(fixed).tolist()) == {0, 1}
    decoder = [name for name in before if name.startswith("decoder.")]
    assert len(decoder) > 40
    assert all(torch.equal(after[name], before[name]) for name in decoder)
    name = "encoder.layers.0.fc1.weight"
    assert not torch.equal(after[name], before[name])
    records = [json.loads(line) for line in (pruned / "gates.jsonl").open()]
    assert [r["update"] for r in records] == [0, 2, 4, 6, 8]
    assert [r["state"] for r in records] == ["learned"] * 3 + ["fixed"] * 2
    log = (pruned / "train.log").read_text()
    assert '"train_translation_loss"' in log and '"valid_open_encoder": "3"' in log


def test_gates_are_fixed_by_the_last_update_without_a_validation(fairseq, data, plain, tmp_path):
    words = "--target-heads 3 --gates-fix-update 3 --max-update 3 --disable-validation".split()
    words += ["--save-interval-updates", 1]
    done = train(fairseq, data, tmp_path, plain, *GATED, *words)
    assert "gates are fixed at 3 updates, 3 of 8 open" in done.out
    states = {}
    for name in ("last", "1_1", "2_3"):
        saved = weights(tmp_path / f"checkpoint_{name}.pt")
        fixed = [saved[f"encoder.layers.{i}.self_attn.gate.fixed"] for i in range(2)]
        states[name] = torch.cat(fixed).tolist()
    assert states["1_1"] == [-1] * 8
    assert sorted(states["last"]) == [0] * 5 + [1] * 3 and states["2_3"] == states["last"]


def test_one_type_of_attention_after_another(fairseq, data, pruned, tmp_path):
    words = "--gated-attention encoder,cross --target-heads 8 --gates-fix-update 5 --max-update 6"
    start = pruned / "checkpoint_last.pt"
    train(fairseq, data, tmp_path, start, *GATED, *words.split())
    before, after = weights(start), weights(tmp_path / "checkpoint_last.pt")
    encoder = [f"encoder.layers.{i}.self_attn.gate.fixed" for i in range(2)]
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    cross = [after[f"decoder.layers.{i}.encoder_attn.gate.fixed"] for i in range(2)]
    assert sorted(torch.cat(cross).tolist()) == [0] * 3 + [1] * 5


def test_the_gated_model_is_used_without_more_options(fairseq, data, pruned):
    path, before = pruned / "checkpoint_last.pt", (pruned / "gates.jsonl").read_bytes()
    words = [data, "--path", path, "--cpu", "--gen-subset", "valid", "--num-workers", 0]
    assert len(fairseq.run("generate", *words, "--beam", 2).rows("H")) == 5
    words = [data, "--path", path, "--cpu", "--batch-size", 5, "--num-workers", 0]
    assert "open_encoder 3" in fairseq.run("validate", *words).out
    assert (pruned / "gates.jsonl").read_bytes() == before  # only trainings write there


def test_decoding_without_the_gates_is_refused(fairseq, data, pruned):
    words = [data, "--path", pruned / "checkpoint_last.pt", "--cpu", "--gen-subset", "valid"]
    words += ["--model-overrides", "{'gated_attention': ''}"]
    done = fairseq.run("generate", *words, check=False)
    assert done.status != 0 and "closed heads would open" in done.error, done.err
    assert "Traceback" not in done.err


def test_a_training_goes_on_as_if_it_had_not_been_stopped(fairseq, data, plain, tmp_path):
    """Except for the order of sentences in a batch, which differs in a new process of fairseq."""
    words = "--target-heads 2 --l0-warmup-updates 4 --disable-validation --dropout 0".split()
    words = [*GATED, *words, "--batch-size", 20]
    fix = ["--gates-fix-update", 6, "--max-update", 8]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(fairseq, data, whole, plain, *words, *fix)
    train(fairseq, data, parts, plain, *words, "--max-update", 4)
    train(fairseq, data, parts, None, *words, *fix)
    assert_nearly_equal(whole, parts)


def test_two_processes_have_the_same_gates_as_one(fairseq, data, plain, tmp_path):
    words = [*GATED, *"--target-heads 2 --l0-warmup-updates 2 --dropout 0 --max-update 4".split()]
    one, two = tmp_path / "one", tmp_path / "two"
    train(fairseq, data, one, plain, *words, "--batch-size", 20)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
    line = [data, *SHAPE, *TRAIN, "--save-dir", two, *words, "--finetune-from-model", plain]
    pair = fairseq.together(
        *(
            fairseq.prepare(
                "train", *line, env=dict(zip(names, [r, r, "2", "2", "127.0.0.1", port]))
            )
            for r in "01"
        )
    )
    for result in pair:
        assert result.status == 0, "".join(r.err[-2500:] for r in pair)
    assert_nearly_equal(one, two)
    updates = [json.loads(line)["update"] for line in (two / "gates.jsonl").open()]
    assert updates == sorted(set(updates))  # one process writes


# the checkpoint has fp32 copies of all, so this looks at the model in training
DTYPES = """
import json
from fairseq.trainer import Trainer

step = Trainer.train_step

def train_step(self, *args, **kwargs):
    layer, gates = self.model.encoder.layers[0], self.model.gates()
    dtypes = {{"weight": str(layer.fc1.weight.dtype)}}
    dtypes["gate"] = str(gates["encoder.0"].scaled_log_alpha.dtype)
    with open({path!r}, "w") as f:
        json.dump(dtypes, f)
    return step(self, *args, **kwargs)

Trainer.train_step = train_step
"""


def test_gates_are_in_fp32_in_a_bf16_training(fairseq, data, plain, tmp_path):
    words = [*GATED, *"--target-heads 2 --max-update 3 --gates-fix-update 2 --bf16".split()]
    path = tmp_path / "dtypes.json"
    train(fairseq, data, tmp_path, plain, *words, before=DTYPES.format(path=str(path)))
    dtypes = json.loads(path.read_text())
    assert dtypes == {"weight": "torch.bfloat16", "gate": "torch.float32"}
    state = weights(tmp_path / "checkpoint_last.pt")
    assert sum(int(state[f"encoder.layers.{i}.self_attn.gate.fixed"].sum()) for i in range(2)) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        ("--target-heads 9", "--target-heads 9: must be 0 to 8"),
        ("--target-heads 2 --l0-penalty 0", "give one of them"),
        (
            "--target-heads 2 --encoder-attention-heads 3",
            "--encoder-attention-heads 3: must divide",
        ),
        ("--target-heads 2 --gated-attention sideways", "sideways is none of"),
    ],
)
def test_bad_options_end_before_work_begins(fairseq, data, plain, tmp_path, words, message):
    words = [*GATED, "--max-update", 2, *words.split()]
    done = train(fairseq, data, tmp_path / "x", plain, *words, check=False)
    assert done.status != 0 and message in done.error, done.err[-2000:]
    assert "Traceback" not in done.err and "num_updates" not in done.out
    # fairseq saves what it has when an update fails
    assert {path.name for path in tmp_path.glob("x/*.pt")} <= {"crash.pt"}


# ---------------------------------------------------------------------------- plot-gates


def test_pictures_of_one_run_and_of_two(pruned, tmp_path):
    from PIL import Image

    done = fairtale("plot-gates", pruned, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 frames" in done.stdout and "translation loss" in done.stdout
    assert not list(tmp_path.iterdir())  # the pictures lie beside the history
    with Image.open(pruned / "gates.gif") as animation:
        assert animation.n_frames == 5 and animation.info["duration"] == 400
        frames = []
        for i in range(5):
            animation.seek(i)
            frames.append(copy.copy(animation.convert("RGB")))
    assert frames[0].tobytes() != frames[4].tobytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / "gates.jsonl").write_bytes((pruned / "gates.jsonl").read_bytes())
    words = (pruned, other, "--output", "both.png", "--names", "a", "b", "--title", "two lambdas")
    done = fairtale("plot-gates", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no train.log in this folder" in done.stderr
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words, parts",
    [
        (["RUN", "nowhere"], ["nowhere/gates.jsonl", "no such file"]),
        (["RUN", "RUN", "--output", "x.gif"], ["--output x.gif", "shows one run"]),
        (["RUN", "--output", "x.jpg"], ["--output x.jpg", ".gif"]),
        (["RUN", "--names", "a", "b"], ["--names: 2 names for 1 runs"]),
    ],
)
def test_what_plot_gates_refuses(pruned, tmp_path, words, parts):
    words = [pruned if word == "RUN" else word for word in words]
    assert_user_error(fairtale("plot-gates", *words, cwd=tmp_path), *parts)
    assert not list(tmp_path.iterdir())


def test_a_missing_matplotlib_is_named(pruned, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib')")
    done = fairtale("plot-gates", pruned, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert_user_error(done, "matplotlib is not installed", "fairtale[plots]")
