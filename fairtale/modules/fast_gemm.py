"""Exact fp32 matrix products through oneDNN, where torch's default library is slow."""

import functools
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.backends import mkldnn

logger = logging.getLogger(__name__)

CPUINFO = Path("/proc/cpuinfo")


def is_slow_mkl_processor(cpuinfo: str) -> bool:
    """Return whether MKL is slow, and oneDNN both fast and exact, on the processor described.

    MKL picks its AVX-512 kernels on Intel's processors only; elsewhere its fp32 products
    run at less than half the rate of oneDNN's. Where the processor has AMX, the setting
    used below would make oneDNN round to bf16, so such a processor is left out.

    Args:
        cpuinfo: text of Linux's ``/proc/cpuinfo``.
    """
    vendors = {line.split(":")[1].strip() for line in cpuinfo.splitlines() if "vendor_id" in line}
    flags = {
        flag
        for line in cpuinfo.splitlines()
        if line.startswith("flags")
        for flag in line.split(":")[1].split()
    }
    amx = any(flag.startswith("amx") for flag in flags)
    return bool(vendors) and "GenuineIntel" not in vendors and "avx512bw" in flags and not amx


def _set_precision(value: str) -> str:
    """Set what oneDNN may do to the operands of fp32 products; return what it might before."""
    settings: Any = mkldnn.matmul  # type: ignore[attr-defined]  # torch adds it when it starts
    before: str = settings.fp32_precision
    settings.fp32_precision = value
    return before


@contextmanager
def _through_onednn() -> Iterator[None]:
    """Send fp32 products to oneDNN.

    "bf16" only *allows* oneDNN to round its operands; without AMX it has no such kernel
    and computes in fp32 (its log says ``brg_matmul:avx512_core, src:f32 wei:f32``).
    """
    before = _set_precision("bf16")
    try:
        yield
    finally:
        _set_precision(before)


def _product_is_exact() -> bool:
    """Return whether integers that fp32 holds, and bf16 does not, are multiplied exactly."""
    # "cpu" by name, since the caller may have set another default device
    generator = torch.Generator("cpu").manual_seed(0)
    wide = torch.randint(-4095, 4096, (128, 256), generator=generator, device="cpu")
    narrow = torch.randint(-3, 4, (256, 512), generator=generator, device="cpu")
    # sums stay below 4095 * 3 * 256 < 2^24: exact in fp32 in every order of summation
    with _through_onednn():
        left = wide.float() @ narrow.float()
        right = narrow.t().float() @ wide.t().float()
    expected = wide @ narrow
    return torch.equal(left.long(), expected) and torch.equal(right.t().long(), expected)


def _has_onednn() -> bool:
    return bool(mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch's own


@functools.cache
def use_onednn() -> bool:
    """Return whether fp32 products of this process are to go through oneDNN (decided once)."""
    if platform.system() != "Linux" or not _has_onednn() or not CPUINFO.exists():
        return False
    if not is_slow_mkl_processor(CPUINFO.read_text()):
        return False
    exact = _product_is_exact()
    logger.info("fp32 matrix products %s", "through oneDNN" if exact else "as torch chooses")
    return exact


@contextmanager
def fast_fp32_products() -> Iterator[None]:
    """Within this block, run fp32 products on the CPU through oneDNN where that is faster.

    The arithmetic stays fp32; only the order of summation differs from MKL's. Nothing
    changes on Intel's processors, without AVX-512, off Linux, or on a GPU.
    """
    if not use_onednn():
        yield
        return
    with _through_onednn():
        yield


def choose_fast_fp32_products() -> None:
    """Compute all fp32 products of this process, gradients included, as the block above does.

    It changes a setting of the whole process, so a command that trains or decodes calls it
    once, at its start; building a model does not. On AMD's processors with AVX-512, where MKL is
    slow, every linear layer then runs at twice the rate. Elsewhere nothing changes.
    """
    if use_onednn():
        _set_precision("bf16")
