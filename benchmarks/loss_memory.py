"""Compare peak memory and time of projection and loss: in chunks, and with all logits at once.

    python benchmarks/loss_memory.py                       # V = 50,000, B * T = 8,192, C = 768
    python benchmarks/loss_memory.py --tokens 2048 --symbols 5120 --channels 512 --rounds 15

One step is the forward and backward pass from the last hidden states to their gradient and that of
the embedding. The memory is the peak of a step above its inputs, including the two gradients. Each
way is measured in a process of its own, by Linux's count of resident memory on a CPU, and by
torch's allocator on a GPU. For the time, the ways alternate in one process.
"""

import argparse
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import common
import torch
import torch.nn.functional as F

sys.path.insert(0, str(common.ROOT))

EPS, PAD = 0.1, 1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_inputs(args, device):
    """Return features [N, C], weight [V, C] and target [N], made without a large temporary."""
    dtype = DTYPES[args.precision]
    features = torch.empty(args.tokens, args.channels, dtype=dtype, device=device).normal_()
    weight = torch.empty(args.symbols, args.channels, dtype=dtype, device=device).normal_(0, 0.02)
    target = torch.randint(PAD + 1, args.symbols, (args.tokens,), device=device)
    return features.requires_grad_(), weight.requires_grad_(), target


def chunked(features, weight, target, eps, chunk_mib=0):
    """Return the loss computed in chunks."""
    from fairtale.modules.chunked_loss import chunked_cross_entropy

    return chunked_cross_entropy(
        features, weight, target, eps=eps, padding_idx=PAD, chunk_mib=chunk_mib
    ).loss


def whole_torch(features, weight, target, eps):
    """Return torch's cross-entropy of all logits."""
    logits = F.linear(features, weight).float()
    return F.cross_entropy(logits, target, label_smoothing=eps, ignore_index=PAD, reduction="sum")


def whole_fairseq(features, weight, target, eps):
    """Return fairseq's label-smoothed loss of all logits."""
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

    lprobs = F.log_softmax(F.linear(features, weight), dim=-1, dtype=torch.float32)
    return label_smoothed_nll_loss(lprobs, target, eps, ignore_index=PAD)[0]


WAYS = {"chunked": chunked, "torch": whole_torch, "fairseq": whole_fairseq}
LABELS = {
    "chunked": "in chunks (label_smoothed_kl)",
    "torch": "F.cross_entropy(F.linear(...))",
    "fairseq": "label_smoothed_cross_entropy",
}


def step(way, inputs, eps, outside=common.as_torch_comes):
    """Run one forward and backward pass within the context manager ``outside``."""
    for x in inputs[:2]:
        x.grad = None
    with outside():
        WAYS[way](*inputs, eps).backward()


def forget_peak(device):
    """Reset the peak memory, so that an earlier peak does not hide that of the step."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the resident memory


def peak_mib(device) -> float:
    """Return the peak memory of this process in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not ru_maxrss of getrusage, which a process inherits from its parent.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 2**10


def measure_memory(args, device):
    """Print how many MiB one step adds to the peak memory; run this in a process of its own."""
    # Load kernels and start thread pools before the measurement.
    small = argparse.Namespace(**{**vars(args), "tokens": 64, "symbols": 512})
    step(args.memory_of, make_inputs(small, device), EPS)
    inputs = make_inputs(args, device)
    common.wait(device)
    forget_peak(device)
    before = peak_mib(device)
    step(args.memory_of, inputs, EPS)
    common.wait(device)
    print(json.dumps(peak_mib(device) - before))


def memory_of(way) -> float:
    """Return the result of :func:`measure_memory` in a new process."""
    run = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--memory-of", way],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        sys.exit(f"{way}: {run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def main():
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common.add_machine_options(parser)
    parser.add_argument("--tokens", type=int, default=8192, help="N = B * T")
    parser.add_argument("--symbols", type=int, default=50_000, help="V")
    parser.add_argument("--channels", type=int, default=768, help="C")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = common.settle(args)
    if args.memory_of:
        measure_memory(args, device)
        return

    from fairtale.modules.fast_gemm import fast_fp32_products, use_onednn

    memory = {way: memory_of(way) for way in WAYS}
    inputs = make_inputs(args, device)
    steps = {
        (way, eps, "as torch comes"): partial(step, way, inputs, eps)
        for eps in (0.0, EPS)
        for way in WAYS
    }
    if device.type == "cpu" and args.precision == "fp32" and use_onednn():
        # Also time the whole loss with oneDNN, to separate the gain of the library.
        for eps in (0.0, EPS):
            steps["torch", eps, "oneDNN"] = partial(step, "torch", inputs, eps, fast_fp32_products)
    seconds = common.alternate(
        steps, rounds=args.rounds or 5, warmup=1, device=device, kind=args.clock
    )

    rows = []
    for (way, eps, library), taken in seconds.items():
        label = LABELS[way] + (", products by oneDNN" if library == "oneDNN" else "")
        mine = seconds["chunked", eps, "as torch comes"]
        rows.append(
            [
                label,
                f"{eps}",
                f"{memory[way]:,.0f}",
                f"{memory['chunked'] / memory[way]:.2f}",
                f"{1e3 * common.quartiles(taken)[1]:,.1f}",
                common.ratio(taken, mine),
            ]
        )
    body = common.table(
        ["way", "eps", "peak MiB", "memory, chunks / this", "ms a step", "time, this / chunks"],
        rows,
    )
    clock = "CPU seconds" if args.clock == "cpu" else "wall clock"
    title = (
        f"Projection and loss: V {args.symbols:,}, B * T {args.tokens:,}, C {args.channels}, "
        f"{args.precision}"
    )
    common.publish(title, device, f"{body}\n\nTime: {clock}, median.", not args.no_write)
    worst = max(memory["chunked"] / memory[way] for way in WAYS if way != "chunked")
    print(f"peak memory of the chunks: {worst:.2f} of the smallest other way's (aim: under 0.5)")
    if worst >= 0.5:
        sys.exit("error: the chunks need at least half of the memory of the whole loss")


if __name__ == "__main__":
    main()
