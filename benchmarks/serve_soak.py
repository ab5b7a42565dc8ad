"""Send a service thousands of mixed requests, and see whether it loses, mixes up or leaks anything.

    python benchmarks/serve_soak.py -- fairtale serve CHECKPOINT --cpu --port 0
    python benchmarks/serve_soak.py -- python -m tests.serving_helpers --delay 0

The command starts the service, whose first line of output ends with its address. Four fifths of
the requests are good: whole or streamed, completions or chats, greedy or seeded, one text or two.
Their texts must equal those that the same request got before, when the service did nothing else.
A tenth hangs up, streaming or waiting; a tenth is malformed and must be refused in OpenAI's format.
Then come slow readers: each takes a few bytes at a time, or nothing and hangs up. At last the
service is killed (SIGKILL) under load and started again, ``--kills`` times: every request must then
end with a whole answer or as a broken connection, at once, and the clients, who try again, must get
the same texts as before.

Memory is the resident set of the service after the first hundred requests, and at the end, when
nothing runs any more, before the kills. The exit status is 1 if a request was lost or got another
text, if something still runs or waits at the end, or if the memory has grown by more than 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

import httpx

SENTENCES = [
    "Once upon a time there was a cat.",
    "Hello, how are you?",
    "The dog found a red ball in the park.",
    "Жил-был кот, и он любил спать.",
    "안녕하세요, 오늘 뭐 해요?",
    "Open the file and read the first line.",
    "It was a dark and stormy night",
    "She said: “I will come tomorrow.”",
]
MALFORMED = [
    b"",
    b"{",
    b'{"model": NaN}',
    b'{"model": "none", "prompt": "x"}',
    b'{"model": %s, "prompt": "x", "temperature": -1}',
    b'{"model": %s, "prompt": "x", "n": 10000}',
    b'{"model": %s, "prompt": "\\ud800"}',
    b'{"model": %s, "prompt": "\\u0000"}',
    b'{"model": %s, "prompt": "x", "stop": %s}' % (b"%s", json.dumps(["a"] * 1000).encode()),
    b'{"model": %s, "prompt": "x", "max_tokens": 100000000}',
    b'{"model": %s, "prompt": "x", "colour": 1}',
    b'{"model": %s, "prompt": "' + b"x" * 1_100_000 + b'"}',
]
DEAD_SECONDS = 120  # after which a request to a service that was killed hangs
HEADERS = {"content-type": "application/json"}


class Service:
    """A process of the service.

    Args:
        command: the command that starts it.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.start()

    def start(self) -> None:
        """Start the process, and wait for its address."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip().rpartition(" ")[2]
        if not self.url.startswith("http"):
            raise SystemExit("the service did not start")

    def kill(self) -> None:
        """End the process at once, as the system does when memory is short."""
        self.process.kill()
        self.process.wait()

    def memory(self) -> float:
        """Return the resident set in MiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def stop(self) -> int:
        """End the service in good order; return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout=120)


class Soak:
    """The requests and what became of them."""

    def __init__(self, client: httpx.AsyncClient, url: str, models: list[str], seed: int) -> None:
        self.client = client
        self.address = urlsplit(url)
        self.models = models
        self.draw = random.Random(seed)
        self.known: dict[str, list[str]] = {}  # request -> its texts when it ran alone
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []

    def good_requests(self) -> list[tuple[str, dict]]:
        """Return every good request, as (path, body) without ``stream``."""
        found = []
        for model in self.models:
            for sentence in SENTENCES:
                for options in ({"temperature": 0}, {"seed": 7}, {"seed": 3, "n": 2}):
                    common = {"model": model, "max_tokens": 24, **options}
                    found.append(("/v1/completions", {**common, "prompt": sentence}))
                    message = {"role": "user", "content": sentence}
                    found.append(("/v1/chat/completions", {**common, "messages": [message]}))
        return found

    async def learn(self) -> None:
        """Run every good request alone, and remember its texts."""
        for path, body in self.good_requests():
            self.known[json.dumps(body)] = await self.whole(path, body)

    async def whole(self, path: str, body: dict) -> list[str]:
        """Return the texts of a request without ``stream``."""
        answer = await self.client.post(path, json=body)
        if answer.status_code == 429:
            self.outcomes["told to try again"] += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
            return await self.whole(path, body)
        answer.raise_for_status()
        return [text_of(choice) for choice in answer.json()["choices"]]

    async def streamed(self, path: str, body: dict) -> list[str]:
        """Return the texts of a request with ``stream``."""
        texts = [""] * body.get("n", 1)
        ended = False
        async with self.client.stream("POST", path, json={**body, "stream": True}) as answer:
            if answer.status_code == 429:
                self.outcomes["told to try again"] += 1
                await answer.aread()
                await asyncio.sleep(float(answer.headers["retry-after"]))
                return await self.streamed(path, body)
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    for choice in json.loads(line[6:])["choices"]:
                        texts[choice["index"]] += text_of(choice)
        return texts if ended else ["the stream was cut off"]

    async def good(self) -> None:
        """Send a good request, and compare its texts with those that are known."""
        path, body = self.draw.choice(self.good_requests())
        stream = self.draw.random() < 0.5
        texts = await (self.streamed if stream else self.whole)(path, body)
        self.outcomes["answered in a stream" if stream else "answered"] += 1
        if texts != self.known[json.dumps(body)]:
            self.faults.append(f"{body}: {texts} instead of {self.known[json.dumps(body)]}")

    async def hang_up(self, slow: bool = False) -> None:
        """Send a request and close the connection, after nothing or a few bytes of the answer."""
        path, body = self.draw.choice(self.good_requests())
        content = json.dumps({**body, "stream": self.draw.random() < 0.5}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self.address.netloc}\r\nConnection: close\r\n"
        head += "Content-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection(self.address.hostname, self.address.port)
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        for _ in range(self.draw.randrange(60 if slow else 3)):
            if not await reader.read(40):
                break
            await asyncio.sleep(0.002)
        writer.transport.abort()
        self.outcomes["read slowly, then hung up" if slow else "hung up"] += 1

    async def malformed(self) -> None:
        """Send a malformed request, and look at the form of the refusal."""
        content = self.draw.choice(MALFORMED)
        if b"%s" in content:
            content = content.replace(b"%s", json.dumps(self.draw.choice(self.models)).encode(), 1)
        answer = await self.client.post("/v1/completions", content=content, headers=HEADERS)
        self.outcomes[f"refused with {answer.status_code}"] += 1
        error = answer.json()["error"]
        if not 400 <= answer.status_code < 500 or set(error) != {
            "message",
            "type",
            "param",
            "code",
        }:
            self.faults.append(f"{content[:80]!r}: {answer.status_code} {answer.text[:200]}")

    async def until_answered(self, is_back: asyncio.Event) -> None:
        """Send good requests, also while the service is dead, until it has answered five again."""
        answered = 0
        while answered < 5:
            was_back = is_back.is_set()
            try:
                async with asyncio.timeout(DEAD_SECONDS):
                    await self.good()
                answered += was_back
            except httpx.TransportError as error:
                self.outcomes[f"dead service: {type(error).__name__}"] += 1
                if was_back:
                    self.faults.append(f"after the restart: {error!r}")
                    return
                await asyncio.sleep(0.1)
            except (TimeoutError, httpx.HTTPError, KeyError, ValueError) as error:
                self.faults.append(f"when the service was killed: {error!r}")
                return

    async def kill(self, service: Service, clients: int) -> None:
        """Kill the service under load and start it again, while clients go on asking."""
        is_back = asyncio.Event()
        work = [asyncio.create_task(self.until_answered(is_back)) for _ in range(clients)]
        while not await self.running():
            await asyncio.sleep(0.02)
        service.kill()
        await asyncio.sleep(1)  # of a dead service
        await asyncio.to_thread(service.start)
        self.client.base_url, self.address = httpx.URL(service.url), urlsplit(service.url)
        is_back.set()
        await asyncio.gather(*work)
        self.outcomes["killed and started again"] += 1

    async def one(self) -> None:
        """Send a request of the mixture."""
        kind = self.draw.random()
        action = self.hang_up if kind < 0.1 else self.malformed if kind < 0.2 else self.good
        try:
            await action()
        except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
            self.outcomes["lost"] += 1
            self.faults.append(f"{action.__name__}: {error!r}")

    async def many(self, count: int, clients: int) -> None:
        """Send ``count`` requests of the mixture from ``clients`` clients."""
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                await self.one()

        await asyncio.gather(*(work() for _ in range(clients)))

    async def running(self) -> str:
        """Return what runs or waits, as the metrics say it."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        numbers = [line for line in lines if line.startswith("fairtale:num_requests_")]
        return "; ".join(line for line in numbers if not line.endswith(" 0.0"))

    async def idle(self) -> str:
        """Wait until nothing runs or waits; return what still does after a minute."""
        busy = ""
        for _ in range(120):
            if not (busy := await self.running()):
                break
            await asyncio.sleep(0.5)
        return busy


def text_of(choice: dict) -> str:
    """Return the text of a choice of any form."""
    return choice.get("text") or (choice.get("message") or choice.get("delta") or {}).get(
        "content", ""
    )


async def run(args: argparse.Namespace, service: Service) -> bool:
    """Run the soak, print its results, and return whether nothing was wrong."""
    limits = httpx.Limits(max_connections=2 * args.clients)
    async with httpx.AsyncClient(base_url=service.url, timeout=300, limits=limits) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        soak = Soak(client, service.url, [model["id"] for model in listed], args.seed)
        await soak.learn()
        await soak.many(100, args.clients)
        left = await soak.idle()
        first, start = service.memory(), time.perf_counter()
        print(f"after 100 requests: {first:.1f} MiB", flush=True)
        soak.outcomes.clear()
        for done in range(0, args.requests, 1000):
            count = min(1000, args.requests - done)
            await soak.many(count, args.clients)
            memory, faults = service.memory(), len(soak.faults)
            print(f"after {done + count} more: {memory:.1f} MiB, {faults} faults", flush=True)
        seconds = time.perf_counter() - start
        for _ in range(0, args.slow_readers, args.clients):
            await asyncio.gather(*(soak.hang_up(slow=True) for _ in range(args.clients)))
        left = left or await soak.idle()
        await soak.learn()  # the texts are still the same, and the service still works
        last = service.memory()
        for _ in range(args.kills):
            await soak.kill(service, args.clients)
        left = left or await soak.idle()
    for outcome, count in sorted(soak.outcomes.items()):
        print(f"{count:6d} {outcome}")
    print(f"{args.requests / seconds:.0f} requests/s of {args.clients} clients")
    print(f"memory at the end: {last:.1f} MiB, {100 * (last / first - 1):+.1f} %")
    print(f"still busy: {left or 'nothing'}")
    print(f"{len(soak.faults)} faults", *soak.faults[:5], sep="\n")
    return not soak.faults and not left and last <= 1.05 * first


def main() -> int:
    """Start the service, and send it requests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slow-readers", type=int, default=500)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("command", nargs="+", help="the command that starts the service")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which also ends the service
    service = Service(args.command)
    try:
        good = asyncio.run(run(args, service))
    finally:
        status = service.stop()
    print(f"exit status of the service: {status}")
    return 0 if good and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
