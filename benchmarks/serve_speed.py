#!/usr/bin/env python
"""Compare the speed of `fairtale serve` with serial decoding and with other services.

Every client sends a request, reads its stream to the end, and sends the next one. The entrants
serve the same random weights, one after the other in every round:

- `fairtale serve` over HTTP, and with `--engine ctranslate2`;
- serial decoding: the library's session writes one text after the other, without HTTP;
- `transformers serve` over HTTP, with and without continuous batching.
"""

import argparse
import asyncio
import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import common
import workers
from serve_model import END, Model, make_model

DEFAULT_ROUNDS = {"cpu": 3, "cuda": 5}
OURS, SERIAL, CT2 = "fairtale serve", "serial decoding", "fairtale serve --engine ctranslate2"
HF, HF_BATCHED = "transformers serve", "transformers serve --continuous-batching"
PEERS = {"ctranslate2": CT2, "transformers": HF, "transformers-batched": HF_BATCHED}
# the command `transformers`, which does not start beside a torchaudio that does not load
TRANSFORMERS = (
    "from fairtale.compat.torchaudio import hide_torchaudio; hide_torchaudio(); "
    "from transformers.cli.transformers import main; main()"
)
START_SECONDS = 240  # for a service to start on a busy machine
STOP_SECONDS = 30


def parse_args() -> argparse.Namespace:
    """Return the options of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=2, help="requests of each client")
    parser.add_argument("--new-tokens", type=int, default=48, help="tokens of each text")
    parser.add_argument("--shortest", type=int, default=4, help="tokens of the shortest prompt")
    parser.add_argument("--longest", type=int, default=100, help="tokens of the longest prompt")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096, help="entries of the tokenizer, at most")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    common.add_machine_options(parser)
    return parser.parse_args()


# ------------------------------------------------------------------------------- entrants


class Answer(NamedTuple):
    """One text."""

    first: float  # seconds from the request to the first characters
    text: str


class Burst(NamedTuple):
    """What the clients got, all together."""

    seconds: float
    answers: list[list[Answer]]  # of each client


class SerialSession:
    """The library's session, which writes one text after the other."""

    def __init__(self, args: argparse.Namespace, checkpoint: str) -> None:
        from fairtale.generation.options import DecodingOptions
        from fairtale.generation.session import Session

        self.session = Session.load(checkpoint, cpu=args.device == "cpu")
        self.options = DecodingOptions(sampling_topk=1, max_len_b=args.new_tokens)

    def burst(self, prompts: list[list[str]]) -> Burst:
        """Answer the requests of all clients; those that are sent at the same time wait in turn."""
        start = time.perf_counter()
        sent = [start] * len(prompts)
        answers: list[list[Answer]] = [[] for _ in prompts]
        for turn in zip(*prompts):
            for client, prompt in enumerate(turn):
                first, parts = None, []
                for part in self.session.stream(prompt, self.options):
                    first = first or time.perf_counter()
                    parts.append(part)
                end = time.perf_counter()
                answers[client].append(Answer((first or end) - sent[client], "".join(parts)))
                sent[client] = end
        return Burst(time.perf_counter() - start, answers)


class Service:
    """A service in a process of its own, and clients that read its streams.

    Args:
        args: options of this benchmark.
        words: the command; ``{port}`` stands for a free port.
        model: the name of the model.
        begin: text before every prompt.
    """

    def __init__(
        self, args: argparse.Namespace, words: Sequence[str], model: str, begin: str = ""
    ) -> None:
        self.args, self.model, self.begin = args, model, begin
        port = str(free_port())
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        env["PYTHONPATH"] = str(common.ROOT)
        if args.asked_threads:
            env["OMP_NUM_THREADS"] = str(args.asked_threads)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the service)
        self.process = subprocess.Popen(
            [word.replace("{port}", port) for word in words],
            env=env,
            stdout=self.log,
            stderr=self.log,
            cwd=common.ROOT,
        )
        self.url = urlsplit(f"http://127.0.0.1:{port}")

    def wait(self) -> None:
        """Wait until the service answers a request."""
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends and self.process.poll() is None:
            try:
                asyncio.run(self._ask("a", 2))
                return
            except (OSError, asyncio.IncompleteReadError, ConnectionError):
                time.sleep(0.5)
        raise SystemExit(f"error: {self.model} does not answer\n{self._end_of_log()}")

    def _end_of_log(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def burst(self, prompts: list[list[str]]) -> Burst:
        """Let all clients send their requests."""
        start = time.perf_counter()
        answers = asyncio.run(self._burst(prompts))
        return Burst(time.perf_counter() - start, answers)

    async def _burst(self, prompts: list[list[str]]) -> list[list[Answer]]:
        async def client(own: list[str]) -> list[Answer]:
            return [await self._ask(prompt, self.args.new_tokens) for prompt in own]

        return await asyncio.gather(*map(client, prompts))

    async def _ask(self, prompt: str, count: int) -> Answer:
        """Send one request, and read its stream."""
        body = {"model": self.model, "prompt": self.begin + prompt, "max_tokens": count}
        content = json.dumps({**body, "temperature": 0, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.url.netloc}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        start, first, parts = time.perf_counter(), None, []
        reader, writer = await asyncio.open_connection(self.url.hostname, self.url.port)
        try:
            writer.write(head.encode() + content)
            status = await reader.readline()
            if b" 200 " not in status:
                raise SystemExit(f"error: {self.model}: {(await reader.read())[-500:]!r}")
            # a piece of the chunked stream is a whole event
            async for line in reader:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise SystemExit(f"error: {self.model}: {event['error']}\n{self._end_of_log()}")
                text = event["choices"][0]["text"] if event["choices"] else ""
                if text:
                    first = first or time.perf_counter()
                    parts.append(text)
        finally:
            writer.close()
        return Answer((first or time.perf_counter()) - start, "".join(parts))

    def close(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Serial:
    """The worker of :class:`SerialSession`, with the methods of :class:`Service`."""

    def __init__(self, args: argparse.Namespace, checkpoint: str) -> None:
        self.worker = workers.Worker(args, SerialSession, checkpoint)

    def wait(self) -> None:
        """Wait until the model is loaded."""
        self.worker.wait()

    def burst(self, prompts: list[list[str]]) -> Burst:
        """Let all clients send their requests."""
        return self.worker.ask("burst", prompts)

    def close(self) -> None:
        """End the process."""
        self.worker.close()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start_entrants(
    args: argparse.Namespace, model: Model, entrants: dict[str, Service | Serial]
) -> None:
    """Start all entrants one after the other, and add them by name."""
    serve = [sys.executable, "-m", "fairtale", "serve", "--port", "{port}"]
    serve += ["--cpu"] if args.device == "cpu" else []
    theirs = [sys.executable, "-c", TRANSFORMERS, "serve", model.hugging_face]
    theirs += ["--device", args.device, "--dtype", "float32", "--host", "127.0.0.1"]
    theirs += ["--port", "{port}"]
    ct2 = [*serve, model.ctranslate2, "--engine", "ctranslate2"]
    makers = {
        OURS: lambda: Service(args, [*serve, model.checkpoint], "model"),
        SERIAL: lambda: Serial(args, model.checkpoint),
        CT2: lambda: Service(args, ct2, "ct2"),
        HF: lambda: Service(args, theirs, model.hugging_face, END),
        HF_BATCHED: lambda: Service(
            args, [*theirs, "--continuous-batching"], model.hugging_face, END
        ),
    }
    chosen = [OURS, SERIAL, *(PEERS[name] for name in args.peers)]
    for name in chosen:
        entrants[name] = makers[name]()
        entrants[name].wait()


# ---------------------------------------------------------------------------- measurement


def measure(
    args: argparse.Namespace, entrants: dict[str, Service | Serial], prompts: list[str], rounds: int
) -> dict[int, dict[str, list[Burst]]]:
    """Return the bursts of each entrant in every round, by the number of clients."""
    found: dict[int, dict[str, list[Burst]]] = {
        clients: {name: [] for name in entrants} for clients in args.clients
    }
    names = list(entrants)
    for number in range(-1, rounds):
        left = common.seconds_left(args)
        if number > 0 and left is not None and left < 0:
            break
        turn = number % len(names)
        for clients in args.clients if number >= 0 else [min(args.clients)]:
            own = [prompts[i :: args.clients[-1]][: args.requests] for i in range(clients)]
            for name in names[turn:] + names[:turn]:
                burst = entrants[name].burst(own)
                if number >= 0:  # the first round warms up
                    found[clients][name].append(burst)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def rows_of(args: argparse.Namespace, bursts: dict[str, list[Burst]], clients: int) -> list:
    """Return rows of the table for one number of clients."""
    seconds = {name: [burst.seconds for burst in found] for name, found in bursts.items()}
    texts = {
        name: [answer.text for client in found[0].answers for answer in client]
        for name, found in bursts.items()
    }
    rows = []
    for name, found in bursts.items():
        firsts = [1000 * a.first for burst in found for own in burst.answers for a in own]
        same = sum(a == b for a, b in zip(texts[name], texts[SERIAL])) / len(texts[SERIAL])
        rows.append(
            [
                f"{clients} client{'s' * (clients > 1)}: {name}",
                common.rate(clients * args.requests * args.new_tokens, seconds[name]),
                "" if name == SERIAL else common.ratio(seconds[SERIAL], seconds[name]),
                f"{statistics.median(firsts):,.0f}",
                f"{percentile(firsts, 0.95):,.0f}",
                "" if name == SERIAL else f"{same:.0%}",
            ]
        )
    return rows


def main() -> None:
    """Run the benchmark and print its table."""
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which also ends the services
    args.clients.sort()
    args.asked_threads = args.threads
    device = common.settle(args)
    rounds = args.rounds or DEFAULT_ROUNDS[device.type]
    if args.longest + args.new_tokens >= args.positions:
        raise SystemExit(f"error: {args.longest} + {args.new_tokens} tokens do not fit --positions")
    if common.transformers_or_none() is None:
        args.peers = [name for name in args.peers if not name.startswith("transformers")]
    if importlib.util.find_spec("ctranslate2") is None:
        print('CTranslate2 is left out: pip install "fairtale[ctranslate2]"', file=sys.stderr)
        args.peers = [name for name in args.peers if name != "ctranslate2"]
    common.import_user_dir()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(args, Path(folder))
        entrants: dict[str, Service | Serial] = {}
        try:
            start_entrants(args, model, entrants)
            found = measure(args, entrants, model.prompts, rounds)
        finally:
            for entrant in entrants.values():
                entrant.close()
    rows = [row for clients, bursts in found.items() for row in rows_of(args, bursts, clients)]
    header = ["", "new tokens/s", "of serial decoding", "first token, median ms", "95 % ms"]
    header.append("same texts as serial")
    counts = {len(bursts[SERIAL]) for bursts in found.values()}
    threads = f"{args.asked_threads} threads each" if args.asked_threads else "threads as they come"
    notes = (
        f"gpt, {args.layers} x {args.width}, {args.heads} heads, {args.positions} positions, fp32, "
        f"random weights; greedy streams, prompts of {args.shortest} to {args.longest} tokens, "
        f"{args.new_tokens} new tokens each; {args.requests} requests of each client, one after "
        f"the other; {min(counts)} rounds, {threads}. Ratios are medians over the rounds (with "
        "quartiles). The clients run on the same machine. Serial decoding is without HTTP."
    )
    title = f"Service, gpt {args.layers} x {args.width}, fp32"
    body = common.table([*header], rows) + "\n\n" + notes
    common.publish(title, device, body, write=not args.no_write)


if __name__ == "__main__":
    main()
