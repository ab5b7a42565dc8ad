"""The command that the Slurm script starts on the nodes."""

import os
import shlex
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "distributed" / "slurm.sh"


def run(folder, *words, **variables):
    for name, text in (
        ("scontrol", "#!/bin/sh\nprintf 'node7\\nnode8\\n'\n"),
        ("fairseq-train", "#!/bin/sh\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "DRY_RUN": "1", **variables}
    command = ["bash", str(SCRIPT), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


JOB = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "12", "SLURM_NNODES": "2"}


def test_the_command(tmp_path):
    done = run(tmp_path, "my data", "--lr", "1", **JOB, SLURM_GPUS_ON_NODE="8", RESTARTS="0")
    words = "srun torchrun --nnodes 2 --nproc-per-node 8 --rdzv-id 12 --rdzv-backend c10d "
    words += "--rdzv-endpoint node7:29500 --max-restarts 0"
    expected = [*words.split(), str(tmp_path / "fairseq-train"), "my data", "--lr", "1"]
    assert shlex.split(done.stdout) == expected, done.stderr


def test_mistakes(tmp_path):
    for words, variables, message in (
        (["data"], {}, "error: not in a Slurm job"),
        ([], JOB, "error: name the data"),
    ):
        done = run(tmp_path, *words, **variables)
        assert done.returncode == 1 and done.stderr.startswith(message)
