"""What several verbs share: option types, optional imports, whole-or-nothing files."""

import contextlib
import importlib
import os
import sys
import tempfile

from ..errors import UserError

# How often a progress bar speaks when nobody watches it live (a log file, a batch job).
_SECONDS_BETWEEN_LOG_LINES = 10.0


def positive_int(text):
    """An argparse type: a whole number of at least 1."""
    value = int(text)  # argparse words the ValueError
    if value < 1:
        raise _argument_error(text, "a whole number of at least 1")
    return value


def fraction(text):
    """An argparse type: a number in [0, 1)."""
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise _argument_error(text, "a number of at least 0 and below 1")
    return value


def _argument_error(text, rule):
    import argparse

    return argparse.ArgumentTypeError(f"{text!r} is not {rule}")


def find_device(name, kinds=("cpu", "cuda")):
    """Returns the torch device of ``--device NAME``; None is the first GPU if there is one.

    Args:
        kinds: that the caller can use; None is whatever torch has.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if kinds and device.type not in kinds:
            raise RuntimeError("it is neither a CPU nor a CUDA GPU")
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch words an absent CUDA as the latter
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not usable here ({reason}); try cpu") from None


def to_device(sample, device):
    """Moves fairseq's nested sample to a device that :func:`find_device` has found."""
    from fairseq import utils

    return utils.move_to_cuda(sample, device) if device.type == "cuda" else sample


def require(module, extra, package=None):
    """Imports ``module``, or names the install command of the extra that brings it.

    Raises:
        UserError: the module is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there; something inside it is broken
        install = f"fairtale[{extra}]" if extra else package or module
        raise UserError(f"{module} is not installed; run: pip install '{install}'") from None


def require_transformers():
    """Imports transformers, for text models only.

    fairseq-fixed brings torchaudio, whose newest wheel fails to load beside a CPU build of
    torch; transformers imports it with every model, if it is there. Text needs none of it.
    Needless once transformers tolerates a torchaudio that does not load.
    """
    sys.modules.setdefault("torchaudio", None)
    return require("transformers", extra="hf")


@contextlib.contextmanager
def whole_file(path, mode="w", **options):
    """Opens ``path`` for writing so that it appears complete or not at all.

    The text goes to a temporary file in the same folder, which takes the name at the
    end; after an error, an interrupt or a crash the old file, if any, is untouched.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "\n", **options}
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial", dir=folder)
    try:
        with os.fdopen(handle, mode, **options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut leaves the new name on empty blocks
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide it from the group
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def progress_bar(total, unit, description, **options):
    """A tqdm bar on stderr; one line every ten seconds where stderr is no terminal."""
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        desc=description,
        file=sys.stderr,
        mininterval=0.1 if watched else _SECONDS_BETWEEN_LOG_LINES,
        maxinterval=10.0 if watched else 2 * _SECONDS_BETWEEN_LOG_LINES,
        dynamic_ncols=watched,
        **options,
    )


def usable_cpus():
    """How many CPUs this process may use (a container or Slurm may grant fewer)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
