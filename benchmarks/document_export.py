"""Measure the export of documents to shards, and random access to their index.

Prints documents per second of `fairtale documents --tokenizer` from a database, beside a plain loop
of pymongo that reads, encodes and writes one document after the other in one process; the private
memory of the exporting processes for each number of documents, which should not grow; the time of a
random document beside fairseq's own classes and the database; and the time of a training's start
and first update with many documents beside few. The database is that of FAIRTALE_MONGO, or else
nx-27017, which says nothing about MongoDB's speed.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fairseq.data import data_utils

from fairtale.cli.progress import progress_bar
from fairtale.cli.tables import table
from fairtale.data.corpus.binarized import load_binarized
from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.data.corpus.shard_writer import ShardWriter

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))
from tests.mongo_helpers import Mongo, MongoProcess, given_server  # noqa: E402

_WORDS = [f"word{number}" for number in range(3_000)]
_BATCH = 1_000
_NUM_READS = 20_000
_NUM_FOUND = 1_000  # documents asked of the database one by one
_VOCAB_SIZE, _FIRST_TOKEN = 1_000, 4
# One update, with the blocks of scripts/gpt2_pretrain.
_TRAINING = """--task story_lm --arch gpt_tiny --sample-break-mode split --pack
    --tokens-per-sample 256 --max-tokens 1024 --criterion label_smoothed_kl --optimizer adam
    --lr 0.001 --max-update 1 --no-save --disable-validation --cpu"""


def _texts(count: int) -> list[str]:
    draw = random.Random(1)
    return [" ".join(draw.choices(_WORDS, k=draw.randint(10, 60))) for _ in range(count)]


def _fill(mongo: Mongo, texts: list[str]) -> None:
    docs = mongo.database["docs"]
    docs.drop()
    docs.create_index([("idx", 1)])
    with progress_bar(len(texts), " documents", "filling the database") as bar:
        for first in range(0, len(texts), _BATCH):
            part = enumerate(texts[first : first + _BATCH], first)
            docs.insert_many([{"idx": n, "form": t, "filt_text": t} for n, t in part])
            bar.update(_BATCH)


def _train_tokenizer(folder: Path, texts: list[str]) -> Path:
    (folder / "sample.txt").write_text("".join(f"{text}\n" for text in texts[:5_000]))
    words = ["bpe", "train", folder / "sample.txt", "--output", folder / "model", "--quiet"]
    words += ["--vocab-size", _VOCAB_SIZE]
    subprocess.run([sys.executable, "-m", "fairtale", *map(str, words)], check=True)
    return folder / "model"


def _export(folder: Path, config: Path, model: Path, count: int, workers: int) -> tuple[float, int]:
    """Return the seconds of an export, and the private memory of its processes in MiB."""
    words = ["documents", f"mongo:{config}", "--tokenizer", model, "--output", folder / str(count)]
    words += ["--workers", workers, "--valid", "0", "--shard-documents", 10_000, "--quiet"]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "fairtale", *map(str, words)], stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        peak = max(peak, sum(map(_private_kib, [process.pid, *_children(process.pid)])))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - start, peak // 1024


def _children(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(number) for number in text.split()]


def _private_kib(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")), 0)


def _plain_loop(mongo: Mongo, model: Path, folder: Path) -> float:
    """Return the seconds of a loop over one cursor, with the same tokens as a result."""
    start = time.perf_counter()
    bpe = load_byte_level(str(model))
    (folder / "plain").mkdir(exist_ok=True)
    paths = str(folder / "plain"), str(folder / "plain")
    writer = ShardWriter(*paths, "train", np.dtype("uint16"), None)
    for record in mongo.database["docs"].find({}).sort([("idx", 1)]):
        row = np.array([*bpe.encode_ids(record["filt_text"]), 2])
        writer.append(row, np.array([len(row)], np.int32))
    writer.finish()
    return time.perf_counter() - start


def _microseconds(read: object, count: int, num_reads: int) -> float:
    draw = random.Random(2)
    numbers = [draw.randrange(count) for _ in range(num_reads)]
    start = time.perf_counter()
    for number in numbers:
        read(number)  # type: ignore[operator]
    return 1e6 * (time.perf_counter() - start) / num_reads


def _measure(mongo: Mongo, folder: Path, counts: list[int], workers: int) -> None:
    texts = _texts(max(counts))
    model = _train_tokenizer(folder, texts)
    config = mongo.config("docs")
    rows = []
    for count in counts:
        _fill(mongo, texts[:count])
        seconds, memory = _export(folder, config, model, count, workers)
        plain = _plain_loop(mongo, model, folder)
        rates = f"{count / seconds:,.0f}", f"{count / plain:,.0f}", f"{plain / seconds:.2f}"
        rows.append([f"{count:,}", *rates, f"{memory:,}"])
    heads = ("documents", "export/s", "plain loop/s", "ratio", "private MiB")
    print(table(heads, rows, True), end="\n\n")
    prefix, count = str(folder / str(counts[-1]) / "train"), counts[-1]
    sharded = load_binarized(prefix, None, combine=True)
    stock = data_utils.load_indexed_dataset(prefix, combine=True)
    docs = mongo.database["docs"]
    found = {
        "shards": _microseconds(sharded.__getitem__, len(sharded), _NUM_READS),
        "fairseq's classes": _microseconds(stock.__getitem__, len(stock), _NUM_READS),
        "database": _microseconds(lambda n: docs.find_one({"idx": n}), count, _NUM_FOUND),
    }
    heads = ("random document of", "microseconds", "ratio")
    base = found["shards"]
    print(table(heads, [[k, f"{v:.1f}", f"{v / base:.1f}"] for k, v in found.items()], True))


def _write_rows(folder: Path, model: Path, count: int) -> None:
    """Write shards of random tokens, as an export writes those of its documents."""
    (folder / "sizes").mkdir(parents=True)
    for name in ("dict.txt", "tokenizer.json"):
        shutil.copyfile(model / name, folder / name)
    draw = np.random.default_rng(3)
    scratch = str(folder / "sizes")
    writer = ShardWriter(str(folder), scratch, "train", np.dtype("uint16"), 100_000)
    for first in range(0, count, _BATCH):
        sizes = draw.integers(10, 60, min(_BATCH, count - first)).astype(np.int32)
        tokens = draw.integers(_FIRST_TOKEN, _VOCAB_SIZE, sizes.sum())
        tokens[sizes.cumsum() - 1] = 2  # </s>
        writer.append(tokens, sizes)
    writer.finish()


def _start(data_bin: Path) -> tuple[float, float]:
    """Return the seconds of a training of one update, by the wall clock and of the processor."""
    words = [Path(sys.executable).with_name("fairseq-train"), data_bin, *_TRAINING.split()]
    words += ["--user-dir", _ROOT / "user_dir", "--save-dir", data_bin / "run"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measure_starts(folder: Path, counts: list[int], rounds: int) -> None:
    folder.mkdir()
    model = _train_tokenizer(folder, _texts(5_000))
    for count in counts:
        _write_rows(folder / f"rows{count}", model, count)
    found = {count: list[tuple[float, float]]() for count in counts}
    for _ in range(rounds):
        for count in counts:
            found[count].append(_start(folder / f"rows{count}"))
    rows, base = [], None
    for count, times in found.items():
        wall, processor = (statistics.median(part) for part in zip(*times, strict=True))
        base = base or processor
        rows.append([f"{count:,}", f"{wall:.1f}", f"{processor:.1f}", f"{processor / base:.2f}"])
    print(table(("training on", "seconds", "CPU seconds", "ratio"), rows, True), end="\n\n")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="*", default=[10_000, 40_000])
    parser.add_argument("--start-documents", type=int, nargs="*", default=[1_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3, help="starts of each training")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args, _ = parser.parse_known_args()  # options of other benchmarks are ignored
    with tempfile.TemporaryDirectory() as name:
        folder, server = Path(name), None
        if args.start_documents:
            _measure_starts(folder / "starts", args.start_documents, args.rounds)
        if not args.documents:
            return
        if not given_server():
            server = MongoProcess(folder)
            server.start()
        address = given_server() or server.address
        print(json.dumps({"workers": args.workers, "given server": bool(given_server())}))
        mongo = Mongo(address, folder)
        try:
            _measure(mongo, folder, args.documents, args.workers)
        finally:
            mongo.close()
            if server is not None:
                server.kill()


if __name__ == "__main__":
    main()
