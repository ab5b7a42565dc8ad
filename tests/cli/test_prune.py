"""`fairtale prune` and `prune-report` on a transformer that plain fairseq has trained."""

import re

import pytest
import torch

from tests.cli.fairtale_command import assert_user_error, fairtale, reversed_sentences

TRAIN = (
    "--arch transformer_tiny --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --task translation "
    "--encoder-attention-heads 4 --decoder-attention-heads 4 --share-all-embeddings "
    "--criterion label_smoothed_cross_entropy --optimizer adam --lr 0.01 --lr-scheduler fixed "
    "--no-epoch-checkpoints --data-buffer-size 0 --num-workers 0 --cpu --batch-size 10 "
    "--max-update 30"
).split()


@pytest.fixture(scope="module")
def data(fairseq, tmp_path_factory):
    """Sentences and their words in reverse."""
    return reversed_sentences(fairseq, tmp_path_factory.mktemp("prune"), train=60, valid=9)


@pytest.fixture(scope="module")
def plain(fairseq, data, tmp_path_factory):
    """A checkpoint of fairseq's ``transformer``."""
    folder = tmp_path_factory.mktemp("plain")
    fairseq.run("train", data, *TRAIN, "--save-dir", folder, stock=True)
    return folder / "checkpoint_last.pt"


def generate(fairseq, data, path):
    words = "--gen-subset valid --batch-size 4 --cpu --max-len-b 8".split()
    done = fairseq.run("generate", data, "--path", path, *words)
    return {number: (float(columns[0]), columns[1]) for number, columns in done.rows("H")}


def heads_of(done):
    found = re.findall(r"^(\w+) heads +(\d+) of (\d+)", done.stdout, re.MULTILINE)
    return {kind: (int(kept), int(total)) for kind, kept, total in found}


def test_pruned_models_are_decoded_without_more_options(fairseq, data, plain, tmp_path):
    done = fairtale(
        "prune", plain, "--output", tmp_path / "all.pt", "--heads", 24, "--by", "random"
    )
    assert done.returncode == 0, done.stderr
    expected, found = (generate(fairseq, data, p) for p in (plain, tmp_path / "all.pt"))
    assert len(found) == 9
    for number, (score, text) in expected.items():
        assert found[number][1] == text
        assert found[number][0] == pytest.approx(score, abs=1e-4)

    half = tmp_path / "half.pt"
    words = ["--heads", 5, "--types", "encoder,cross", "--ffn-keep", 0.25, "--max-tokens", 40]
    words += ["--by", "gradient", "--data", data, "--drop-layers", "decoder.0"]
    done = fairtale("prune", plain, "--output", half, *words)
    assert done.returncode == 0, done.stderr
    kept = heads_of(done)
    assert kept["decoder"] == (4, 8)
    assert kept["encoder"][0] + kept["cross"][0] == 5
    assert "scores computed on 9 sentences of valid" in done.stdout
    state = torch.load(half, weights_only=False)
    assert state["last_optimizer_state"] is None
    assert state["model"]["encoder.layers.1.fc1.weight"].shape == (8, 16)
    assert half.stat().st_size < (tmp_path / "all.pt").stat().st_size < plain.stat().st_size
    assert len(generate(fairseq, data, half)) == 9

    report = tmp_path / "out" / "report.md"
    words = [
        "--data",
        data,
        "--subset",
        "valid",
        "--output",
        report,
        "--names",
        "full",
        "all",
        "half",
    ]
    words += ["--rounds", 2, "--timed-sentences", 4, "--max-len-b", 8]
    done = fairtale("prune-report", plain, tmp_path / "all.pt", half, *words)
    assert done.returncode == 0, done.stderr
    text = report.read_text()
    rows = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if line.startswith("| ") and (cells := [c.strip() for c in line.strip("|").split("|")])
    }
    assert rows["full"][:4] == ["8", "8", "8", "128"] and rows["full"][-1] == ""
    assert rows["all"][6:8] == rows["full"][6:8]  # BLEU and chrF
    assert rows["half"][:4] == [str(kept[k][0]) for k in ("encoder", "decoder", "cross")] + ["24"]
    assert "tok:13a" in text and "beam 5" in text and "batches of 32" in text
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "![heads, BLEU and speed](report.png)" in text


def test_a_model_that_does_not_look_at_the_source(fairseq, data, plain, tmp_path):
    blind, small = tmp_path / "blind.pt", tmp_path / "small.pt"
    words = ["--heads", 0, "--by", "random", "--types", "cross", "--data", data]
    done = fairtale("prune", plain, "--output", blind, *words)
    assert done.returncode == 0 and heads_of(done)["cross"] == (0, 8), done.stderr
    assert "all cross heads are removed" in done.stderr
    assert f"--data {data}: has no effect" in done.stderr
    assert "scores computed" not in done.stdout

    words = ["--heads", 3, "--by", "gradient", "--types", "encoder", "--data", data]
    done = fairtale("prune", blind, "--output", small, *words)
    assert done.returncode == 0 and heads_of(done)["encoder"] == (3, 8), done.stderr
    assert "scores computed on 9 sentences" in done.stdout

    assert len(generate(fairseq, data, small)) == 9
    words = [data, "--path", small, "--cpu", "--gen-subset", "valid", "--num-workers", 0]
    done = fairseq.run("generate", *words, "--print-alignment", check=False)
    assert done.status != 0 and "--print-alignment: " in done.error, done.err
    assert "has no heads left" in done.error and "Traceback" not in done.err
    words[2] = plain  # which has heads
    assert len(fairseq.run("generate", *words, "--print-alignment").rows("A")) == 9


def test_mistakes(data, plain, tmp_path):
    out = tmp_path / "x.pt"

    def refused(*words, parts, output=out):
        assert_user_error(fairtale("prune", plain, "--output", output, *words), *parts)
        assert not out.exists()

    refused("--heads", 25, "--by", "random", parts=["--heads 25", "24 heads"])
    refused("--heads", 3, parts=["no gates", "--by"])
    refused("--heads", -1, "--by", "random", parts=["--heads -1"])
    refused("--ffn-keep", 0, parts=["--ffn-keep 0.0", "above 0"])
    refused("--drop-layers", "encoder.2", parts=["encoder.2", "encoder.1"])
    refused("--ffn-keep", 0.5, output=plain, parts=["--output", "itself"])
    refused("--heads", 3, "--by", "gradient", parts=["--data"])
    refused("--ffn-keep", 0.5, "--data", "nowhere", "--cpu", parts=["--data nowhere: no such"])
    words = [plain, plain, "--names", "a", "b", "--data", data, "--output", tmp_path / "rep.png"]
    done = fairtale("prune-report", *words)
    assert_user_error(done, "--output", "rep.png: the figure would have the same name")
