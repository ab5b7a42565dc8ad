#!/usr/bin/env python
"""Print what a machine is and how fast its matrix products are, as one line of JSON.

``gpu_check.py`` runs this in a process of its own, so that it holds no memory of the GPU itself.
"""

import argparse
import json
import platform
import statistics

import common
import flops
import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKAGES = ("torch", "numpy", "fairseq-fixed", "transformers", "triton", "pytest")


def measured_peak(device: torch.device, dtype: torch.dtype, size: int, rounds: int) -> float:
    """Return the rate of square products in FLOP/s: the median over the rounds.

    Args:
        device: where to compute.
        dtype: type of the operands.
        size: rows and columns of the operands, which are random (zeros would be faster on a GPU).
        rounds: number of timed products, after three that are not.
    """
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty(size, size, dtype=dtype, device=device)
    seconds = [
        common.clock(lambda: torch.mm(left, right, out=result), device) for _ in range(rounds + 3)
    ]
    return 2 * size**3 / statistics.median(seconds[3:])


def describe(args: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Return name, versions and peaks of this machine."""
    peaks = {}
    for precision in args.precisions:
        rate = measured_peak(device, DTYPES[precision], args.size, args.rounds)
        sheet = 0.0
        if device.type == "cuda":
            sheet = flops.data_sheet_peak(torch.cuda.get_device_name(), precision)
        peaks[precision] = {"measured": rate, "data sheet": sheet}
    found: dict[str, object] = {
        "name": common.device_name(device),
        "circumstances": common.circumstances(device),
        "packages": {"Python": platform.python_version()}
        | {name: common.version(name) for name in PACKAGES},
        "size": args.size,
        "peaks": peaks,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["memory GiB"] = round(properties.total_memory / 2**30, 1)
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["packages"]["CUDA of torch"] = torch.version.cuda
        found["packages"]["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
        found["packages"]["cuDNN"] = torch.backends.cudnn.version()
    return found


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=["bf16", "fp16"])
    parser.add_argument("--size", type=int, default=8192, help="rows and columns of the operands")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"error: torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU on this "
            "machine; --device cpu rehearses the check without one"
        )
    print(json.dumps(describe(args, torch.device(args.device))))


if __name__ == "__main__":
    main()
