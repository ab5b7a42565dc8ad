"""What every test shares: the skips of the markers ``gpu`` and ``realdata``, and the corpora.

``slow`` needs nothing here: ``make test`` leaves those tests out with ``-m "not slow"``.
"""

import os
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

# Tests start hundreds of commands. Without byte code on the disk each would compile all modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def _gpu_reason():
    """Why no GPU test can run here, or None. Imports torch, so it is asked only when needed."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"needs a CUDA device: torch {torch.__version__} is a CPU build"
    return f"needs a CUDA device: torch {torch.__version__} finds none"


def _realdata_folder():
    """``(folder, None)``, or ``(None, reason)``. A folder asked for by name must exist."""
    named = os.environ.get("FAIRTALE_DATA")
    if named:
        if not Path(named).is_dir():
            raise pytest.UsageError(f"FAIRTALE_DATA={named} is not a folder")
        return Path(named).resolve(), None
    beside = REPO.parent / "shared" / "data"
    if beside.is_dir():
        return beside, None
    return None, f"no real corpora: {beside} does not exist and FAIRTALE_DATA is not set"


def pytest_configure(config):
    _realdata_folder()  # a wrong FAIRTALE_DATA stops the run at once


def pytest_collection_modifyitems(items):
    reasons = {}
    for item in items:
        for name, reason in (("gpu", _gpu_reason), ("realdata", lambda: _realdata_folder()[1])):
            if item.get_closest_marker(name):
                if name not in reasons:
                    reasons[name] = reason()
                if reasons[name]:
                    item.add_marker(pytest.mark.skip(reason=reasons[name]))


@pytest.fixture(scope="session")
def realdata():
    """The folder of real corpora, ``../shared/data`` or ``$FAIRTALE_DATA``."""
    folder, reason = _realdata_folder()
    if folder is None:
        pytest.skip(reason)
    return folder


def pytest_make_parametrize_id(val, argname):
    """Long bytes are named after their argument, not spelt out: gzip writes the time of day into
    them, and a test must have the same name in every worker process."""
    return argname if isinstance(val, bytes) and len(val) > 16 else None
