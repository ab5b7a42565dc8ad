"""The fork server of this test process, and commands of the usual names that use it.

With ``FAIRTALE_COLD`` in the environment every command is a process of its own, as people start it.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = "train generate interactive validate eval-lm preprocess score".split()
START_SECONDS = 240

_server = None


class WarmServer:
    """A fork server and a folder of commands, which are removed at the end of this process."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fairtale-"))
        self.socket = str(self.folder / "socket")
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("FAIRTALE_", "TORCH_"))},
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": "",
        }
        self.process = subprocess.Popen(
            [sys.executable, HERE / "fork_server.py", self.socket],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        text = (HERE / "warm_client.py").read_text(encoding="utf-8")
        text = text.replace("@PYTHON@", sys.executable).replace("@SOCKET@", self.socket)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for name in ["python", *(f"fairseq-{command}" for command in COMMANDS)]:
            (self.bin / name).write_text(f"#!{sys.executable} -IS\n{text}", encoding="utf-8")
            (self.bin / name).chmod(0o755)
        self._wait()

    def _wait(self):
        deadline = time.monotonic() + START_SECONDS
        while not os.path.exists(self.socket):
            assert self.process.poll() is None, "the fork server has died"
            assert time.monotonic() < deadline, "the fork server does not start"
            time.sleep(0.05)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


def warm_server():
    """Return the server of this process, which is started by the first call."""
    global _server
    if _server is None:
        _server = WarmServer()
        atexit.register(_server.close)
    return _server


def warm_bin(environment):
    """Return the folder of quick commands; None if real ones are wanted.

    Args:
        environment: what a test adds to the environment; a PYTHONPATH of its own replaces modules,
            which must not have been imported before.
    """
    if os.environ.get("FAIRTALE_COLD") or "PYTHONPATH" in environment:
        return None
    return warm_server().bin
