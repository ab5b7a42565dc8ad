"""What ``make gpu-check`` runs on a GPU, rehearsed on a CPU with gloo and tiny shapes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A busy machine may take several times as long as the budgets allow.
PATIENCE = ["--minutes", "20", "--budget-factor", "5"]


def rehearse(page, *words):
    """Run the check on the CPU; return its exit status and {title: (outcome, remark)}."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu_check.py", "--device", "cpu"]
        + ["--output", page, *PATIENCE, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| [^|]* \| \d+ s \| (.*?) ?\|$", text, re.MULTILINE)
    return done.returncode, {title: (outcome, remark) for title, outcome, remark in rows}, text


def test_a_group_of_one_process(tmp_path):
    status, steps, text = rehearse(
        tmp_path / "page.md", "--steps", "backends", "--backends", "legacy_ddp", "pytorch_ddp"
    )
    assert status == 0, text
    backends = "One process through every backend"
    assert steps == {"Machine": ("passed", ""), backends: ("passed", "")}
    assert re.search(
        r"\| legacy_ddp \| fp32 \| ran \| gloo \| LegacyDistributedDataParallel \|", text
    )
    assert "| pytorch_ddp | fp32 | left out: fairseq gives it a device number" in text
    assert re.search(r"^\| torch \| \d\S+ \| \d\S+ \|$", text, re.MULTILINE)
    assert "measured here, because there is no data sheet's for it" in text


@pytest.mark.slow
def test_everything_that_a_cpu_can_run(tmp_path):
    status, steps, text = rehearse(tmp_path / "page.md")
    assert status == 0, text
    outcomes = {title: outcome for title, (outcome, _) in steps.items()}
    assert outcomes == {
        "Machine": "passed",
        "Tests with the marker gpu": "left out",
        "One process through every backend": "passed",
        "Training in bf16": "passed",
        "Generation in bf16": "passed",
        "Training in fp16": "left out",
        "Generation in fp16": "left out",
        "Training a larger model in bf16": "left out",
        "Training a larger model in fp16": "left out",
    }
    assert "needs a CUDA device" in steps["Tests with the marker gpu"][1]
    assert steps["Training in fp16"][1].startswith("fp16 on a CPU")
    training, generation = text.split("## Training in bf16")[1].split("## Generation in bf16")
    for table in (training, generation.split("\n## ")[0]):
        assert re.search(r"\| *peak MiB *\| *MFU of \S+ TFLOP/s *\|\n", table)
        for name in ("fairtale", "fairseq", "Hugging Face"):
            assert re.search(rf"^\| (greedy: )?{name}.* [\d.]+% \|$", table, re.MULTILINE), name
    assert "greedy: fairseq stock generator" in generation
