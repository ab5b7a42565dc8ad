"""``fairtale sample`` as people call it, and what it refuses before a model is loaded."""

import json

import pytest

from fairtale.cli import main
from tests.cli.fairtale_command import fairtale

PROMPTS = "Once upon a time\n\nTom and Mia “met”\n"


def run(checkpoint, folder, prompts, *options):
    """Run the verb in this process; return the JSON objects."""
    (folder / "prompts").write_text(prompts, encoding="utf-8")
    words = ["sample", str(checkpoint), "--prompts", str(folder / "prompts"), "--cpu"]
    words += ["--output", str(folder / "out.jsonl"), *map(str, options)]
    assert main.main(words) == 0
    return [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]


def test_the_command(checkpoint, tmp_path):
    (tmp_path / "prompts").write_text(PROMPTS, encoding="utf-8")
    words = ["sample", checkpoint, "--prompts", tmp_path / "prompts", "--cpu", "--max-len-b", 9]
    words += ["--num-samples", 2, "--sampling-topp", 0.9, "--output", tmp_path / "out.jsonl"]
    done = fairtale(*words)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    prompts = PROMPTS.splitlines()
    assert [record["prompt"] for record in found] == [p for p in prompts for _ in range(2)]
    assert [record["sample"] for record in found] == [1, 2] * 3
    assert all(1 <= record["num_tokens"] <= 9 for record in found)
    first = found[0]["text"]
    assert done.stdout.startswith(f"--- prompt 1, sample 1 of 2\nOnce upon a time|{first}\n\n---")
    assert done.stdout.count("---") == 6 and "6 samples, " in done.stderr


def test_repeatable_and_independent_of_other_prompts(checkpoint, tmp_path):
    options = ["--num-samples", 3, "--max-len-b", 8, "--temperature", 1.5, "--sampling-topk", -1]
    found = run(checkpoint, tmp_path, PROMPTS, *options)
    assert run(checkpoint, tmp_path, PROMPTS, *options, "--batch-size", 4) == found
    assert run(checkpoint, tmp_path, PROMPTS.splitlines()[2], *options) == found[6:]
    assert run(checkpoint, tmp_path, PROMPTS, *options, "--seed", 2) != found


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--sampling-topk", 5, "--sampling-topp", 0.5], ["give one of them"]),
        (["--temperature", 0], ["--temperature 0.0: must be > 0"]),
        (["--num-samples", 10**9], ["--num-samples 1000000000", "at most 1,000,000 samples"]),
        (["--min-len", 61], ["--max-len-b 60 is less than --min-len 61"]),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(tmp_path, capsys, options, parts):
    (tmp_path / "prompts").write_text("a\n")
    words = ["sample", "nowhere.pt", "--prompts", str(tmp_path / "prompts"), *map(str, options)]
    assert main.main(words) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts)


def test_bad_prompts_and_adapters(checkpoint, tmp_path, capsys):
    path = tmp_path / "prompts"
    words = ["sample", str(checkpoint), "--prompts", str(path), "--cpu"]

    def error(content, *options):
        path.write_bytes(content)
        output = tmp_path / "out.jsonl"
        assert main.main([*words, "--output", str(output), *options]) == 2
        assert not output.exists()
        return capsys.readouterr().err

    assert "is a directory" in error(b"a\n", "--output", str(tmp_path)).lower()
    assert "is empty; write one prompt on each line" in error(b"")
    assert "prompts:2: not UTF-8" in error(b"a\n\xff\n")
    assert "prompt 2: a prompt of " in error(b"a\n" + b"Once upon a time " * 40)
    assert "adapter_config.json is missing" in error(b"a\n", "--lora-adapter", str(tmp_path))


def test_data_of_another_dictionary(checkpoint, stories, tmp_path, capsys):
    (tmp_path / "prompts").write_text("a\n")
    names = stories.copy(tmp_path / "data") / "dict.txt"
    lines = names.read_text(encoding="utf-8").splitlines(True)
    names.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    words = ["sample", str(checkpoint), "--prompts", str(tmp_path / "prompts"), "--cpu", "--data"]
    assert main.main([*words, str(names.parent)]) == 2
    assert f"trained with another dictionary than {names}" in capsys.readouterr().err
