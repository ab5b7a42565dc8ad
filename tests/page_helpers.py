"""A service whose engines say what a test tells them, for the tests of the page."""

import queue
import threading

import uvicorn

from fairtale.serving.app import create_app
from fairtale.serving.interface import Delta, EngineStats, Limits, Overloaded
from fairtale.serving.service import AppOptions

SECONDS = 20  # a guard against hanging, nothing is timed


class Ticket:
    """An accepted request; the test says its words and ends it."""

    prompt_tokens = 1

    def __init__(self, request, deliver):
        self.request = request
        self.deliver = deliver
        self.cancelled = threading.Event()
        self.ended = False

    def say(self, *texts):
        for text in texts:
            self.deliver(Delta(text, 1))

    def end(self, *texts, reason="stop", error=None):
        self.say(*texts)
        self.ended = True
        self.deliver(Delta("", 0, (), reason, error))

    def cancel(self):
        if not self.ended:
            self.ended = True
            self.deliver(Delta("", 0, (), "cancelled"))
            self.cancelled.set()


class SpokenEngine:
    """Implements the protocol ``Engine`` by what a test says."""

    def __init__(self, kind):
        self.kind = kind
        self.limits = Limits(1022, 1023, 1024, 8, 64, 10**6)
        self.tickets = queue.Queue()
        self.full = False

    def next(self):
        """Return the next request, which the page is about to send."""
        return self.tickets.get(timeout=SECONDS)

    def submit(self, request, deliver):
        if self.full:
            raise Overloaded("64 requests wait already", retry_after=3)
        ticket = Ticket(request, deliver)
        self.tickets.put(ticket)
        return ticket

    def stats(self):
        return EngineStats(0, 0, 0.0)

    def unhealthy(self):
        return None

    def describe(self):
        return f"no model, {self.kind}"

    def close(self, grace):
        pass


class PageService:
    """The real application on a port of its own, with an engine of each kind.

    Args:
        api_key: key of the service.

    Attributes:
        page_is_open: give the page itself without the key, as if the key had been changed while
            the page was open.
    """

    def __init__(self, api_key=None):
        kinds = {"tales": "story", "talk": "dialog", "en-ru": "translation"}
        self.engines = {name: SpokenEngine(kind) for name, kind in kinds.items()}
        self.app = create_app(self.engines, AppOptions(api_key=api_key))
        self.key = api_key
        self.page_is_open = False
        config = uvicorn.Config(self, port=0, log_level="warning", lifespan="off", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    async def __call__(self, scope, receive, send):
        if self.page_is_open and scope["type"] == "http" and scope["path"] == "/":
            bearer = (b"authorization", f"Bearer {self.key}".encode())
            scope = {**scope, "headers": [*scope["headers"], bearer]}
        await self.app(scope, receive, send)

    def __enter__(self):
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            self.thread.join(0.02)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(SECONDS)
