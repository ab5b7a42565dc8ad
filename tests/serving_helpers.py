"""An engine without a model, whose texts are known in advance, for the tests of the service.

``python -m tests.serving_helpers --port 0`` serves it as ``fairtale serve`` serves a model.
"""

import argparse
import re
import threading
import time
import zlib
from collections import deque

from fairtale.serving.interface import (
    Delta,
    EngineStats,
    GenerationRequest,
    Limits,
    Overloaded,
    RequestError,
    ShuttingDown,
    TokenLogprob,
)
from fairtale.serving.request_rules import check_options

WORDS = "the cat sat on a mat and saw мир, дом. 안녕 세계 🙂 then it ran home".split()


def known_words(request: GenerationRequest):
    """Return the words that answer a request: the sum of its prompt, then words drawn from it.

    Greedy and seeded texts depend on nothing else. An unseeded one is drawn from the time.
    """
    text = request.prompt if isinstance(request.prompt, str) else "\n".join(request.prompt)
    checksum = zlib.crc32(text.encode())
    options = request.options
    state = checksum
    if options.temperature > 0:
        state += time.monotonic_ns() if options.seed is None else options.seed + 1
    state %= 2**32
    words = [f" {checksum:08x}:"]
    for _ in range(4 + state % 20):
        state = (1103515245 * state + 12345) % 2**31
        words.append(f" {WORDS[(state >> 8) % len(WORDS)]}")
    while len(words) < options.min_tokens:
        words.append(" more")
    return words


class FakeTicket:
    """A request in the queue or in the batch of a :class:`FakeEngine`."""

    def __init__(self, request, deliver, limits):
        self.request = request
        self.deliver = deliver
        self.cancelled = False
        self.prompt = re.findall(r"\s*\S+", str(request.prompt))
        self.prompt_tokens = len(self.prompt)
        self.scored = False
        self.words = known_words(request)
        most = request.options.max_tokens
        most = limits.max_new_tokens if most is None else most
        self.finish = "stop" if len(self.words) <= most else "length"
        self.words = self.words[:most]
        self.place = 0  # number of words that were made
        self.kept = ""  # the end of the text that may be the beginning of a stop string

    def cancel(self):
        self.cancelled = True

    def step(self):
        """Make one word, part of which ``stop`` may hold back, or score the prompt first."""
        options = self.request.options
        if options.prompt_logprobs and not self.scored:
            self.scored = True
            scores = [None, *(-0.25 for _ in self.prompt[1:])]
            prompt = tuple(TokenLogprob(w, w.encode(), s, ()) for w, s in zip(self.prompt, scores))
            return Delta("", 0, (), None if self.words else "length", prompt=prompt)
        word = self.words[self.place]
        self.place += 1
        self.kept += word
        found = [at for at in (self.kept.find(stop) for stop in options.stop) if at >= 0]
        last = self.place == len(self.words) or bool(found)
        finish = ("stop" if found else self.finish) if last else None
        if found:
            text, self.kept = self.kept[: min(found)], ""
        else:
            keep = 0 if last else max((len(stop) - 1 for stop in options.stop), default=0)
            cut = max(len(self.kept) - keep, 0)
            text, self.kept = self.kept[:cut], self.kept[cut:]
        logprobs = ()
        if options.logprobs is not None:
            top = tuple(
                (f" t{i}", f" t{i}".encode(), -1.0 - i) for i in range(max(options.logprobs - 1, 0))
            )
            own = (word, word.encode(), -0.5)
            logprobs = (TokenLogprob(*own, (own, *top) if options.logprobs else ()),)
        return Delta(text, 1, logprobs, finish)


class FakeEngine:
    """Implements the protocol ``Engine`` with one thread and a bounded queue.

    Args:
        kind: "story", "dialog" or "translation".
        delay: seconds of a step, in which each running request gets one word.
        max_running: size of the running batch.
        max_waiting: length of the queue.
        positions: maximum number of words of a prompt and its text.
    """

    def __init__(self, kind="story", delay=0.0, max_running=8, max_waiting=64, positions=1024):
        self.kind = kind
        self.delay = delay
        self.limits = Limits(
            positions - 2, positions - 1, positions, max_running, max_waiting, 10**6
        )
        self.running: list[FakeTicket] = []
        self.waiting: deque[FakeTicket] = deque()
        self.submitted: deque[GenerationRequest] = deque(maxlen=100)  # the newest
        self.reason: str | None = None
        self.fail_next: str | None = None  # the next step ends every request with this error
        self.hold = threading.Event()  # while it is cleared, no step is taken
        self.hold.set()
        self.closing = False
        self.stopped = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="fake engine", daemon=True)
        self.thread.start()

    def submit(self, request, deliver):
        options, positions = request.options, self.limits.max_positions
        check_options(options, 10**6)
        for name in ("max_tokens", "min_tokens"):
            value = getattr(options, name)
            if value is not None and value > self.limits.max_new_tokens:
                raise RequestError(
                    f"{name} {value}: the model has {positions} positions; lower {name}", name
                )
        ticket = FakeTicket(request, deliver, self.limits)
        if ticket.prompt_tokens + options.min_tokens > positions:
            raise RequestError(
                f"prompt: {ticket.prompt_tokens} tokens leave no room; shorten it", "prompt"
            )
        with self.changed:
            if self.closing:
                raise ShuttingDown("the service is stopping")
            if len(self.waiting) >= self.limits.max_waiting:
                raise Overloaded(f"{len(self.waiting)} requests wait already", retry_after=0.5)
            self.submitted.append(request)
            self.waiting.append(ticket)
            self.changed.notify_all()
        return ticket

    def stats(self):
        with self.changed:
            running, waiting = len(self.running), len(self.waiting)
        return EngineStats(running, waiting, running / self.limits.max_running)

    def unhealthy(self):
        return self.reason

    def describe(self):
        return f"no model, {self.kind}, {self.limits.max_running} rows"

    def close(self, grace):
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.thread.join(grace)
        self.stopped = True
        self.hold.set()
        with self.changed:
            self.changed.notify_all()
        self.thread.join()

    def _work(self):
        while True:
            with self.changed:
                while not (self.running or self.waiting or self.closing or self.stopped):
                    self.changed.wait()
                if self.stopped or (self.closing and not (self.running or self.waiting)):
                    break
            self.hold.wait()
            self._step()
            time.sleep(self.delay)
        with self.changed:
            left = [*self.running, *self.waiting]
            self.running, self.waiting = [], deque()
        for ticket in left:
            ticket.deliver(Delta("", 0, (), "error", "the service has stopped"))

    def _step(self):
        with self.changed:
            gone = [t for t in (*self.running, *self.waiting) if t.cancelled]
            self.running = [t for t in self.running if not t.cancelled]
            self.waiting = deque(t for t in self.waiting if not t.cancelled)
            while self.waiting and len(self.running) < self.limits.max_running:
                self.running.append(self.waiting.popleft())
            batch, failure = list(self.running), self.fail_next
            self.fail_next = None
        for ticket in gone:
            ticket.deliver(Delta("", 0, (), "cancelled"))
        ended = []
        for ticket in batch:
            delta = Delta("", 0, (), "error", failure) if failure else ticket.step()
            ticket.deliver(delta)
            if delta.finish_reason:
                ended.append(ticket)
        with self.changed:
            self.running = [t for t in self.running if t not in ended]


def main():
    """Serve engines of every kind until SIGTERM; print the address first."""
    from fairtale.serving.app import create_app
    from fairtale.serving.server import ServerOptions, address_of, listen, serve
    from fairtale.serving.service import AppOptions

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["story", "dialog", "translation"])
    parser.add_argument("--delay", type=float, default=0.05, help="seconds of a step")
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--max-running", type=int, default=8)
    parser.add_argument("--max-waiting", type=int, default=64)
    parser.add_argument("--grace", type=float, default=5.0)
    parser.add_argument("--api-key")
    parser.add_argument("--max-connections", type=int, default=512)
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for slow clients")
    args = parser.parse_args()
    engines = {
        kind: FakeEngine(kind, args.delay, args.max_running, args.max_waiting, args.positions)
        for kind in args.kinds
    }
    options = ServerOptions(
        port=args.port,
        grace=args.grace,
        max_connections=args.max_connections,
        head_seconds=args.patience,
        stall_seconds=args.patience,
    )
    bound = listen(options.host, options.port)
    app = create_app(engines, AppOptions(api_key=args.api_key, body_seconds=args.patience))
    serve(app, bound, options, lambda: print(f"Serving on {address_of(bound)}", flush=True))


if __name__ == "__main__":
    main()
