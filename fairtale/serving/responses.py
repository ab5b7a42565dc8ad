"""Send the texts of a request, as a whole or as server-sent events, and notice who hangs up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError, api_error, to_json
from .generation import Generation
from .interface import Engine
from .metrics import ModelMetrics
from .openai_replies import Reply
from .openai_requests import Job

_LOG = logging.getLogger(__name__)
KEEP_ALIVE_SECONDS = 15.0  # a stream that waits in the queue sends a comment this often
_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx collects the events otherwise
]


@dataclass(frozen=True)
class Running:
    """What a response needs of the model that it is made with."""

    engine: Engine
    metrics: ModelMetrics
    timeout: float  # seconds
    log_texts: bool  # whether prompts and texts are logged


class TextResponse(Response):
    """The texts of one job.

    The job is handed to the engine when the response is sent, so that one place watches for a
    client that hangs up, from the queue to the last token.

    Args:
        reply: the form of the answer.
        running: the model.
    """

    def __init__(self, reply: Reply, running: Running) -> None:
        super().__init__()
        self._reply = reply
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        running, job = self._running, self._reply.job
        generation = Generation(running.engine, job, running.metrics, running.timeout)
        work = asyncio.create_task(self._answer(generation, send))
        watch = asyncio.create_task(_until_hung_up(receive))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()  # raises what went wrong
        finally:
            generation.cancel()
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
            if running.log_texts:
                _log_texts(job, self._reply)

    async def _answer(self, generation: Generation, send: Send) -> None:
        try:
            await generation.start()
        except ApiError as error:
            await _send_whole(error.response(), send)
            return
        if self._reply.job.stream:
            await self._stream(generation, send)
            return
        try:
            async for parts in generation.parts():
                for index, delta in parts:
                    self._reply.builders[index].add(delta)
            content = self._reply.whole(generation.prompt_tokens)
            response = Response(to_json(content), media_type="application/json")
        except ApiError as error:
            response = error.response()
        await _send_whole(response, send)

    async def _stream(self, generation: Generation, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
        try:
            await _send_events(send, self._reply.first_chunks())
            async for parts in generation.parts(idle=KEEP_ALIVE_SECONDS):
                if not parts:
                    await _send_body(send, b": waiting\n\n")
                chunks = (self._reply.chunk(index, delta) for index, delta in parts)
                await _send_events(send, (chunk for chunk in chunks if chunk is not None))
            last = b"data: [DONE]\n\n"
            if self._reply.job.include_usage:
                last = _event(self._reply.usage_chunk(generation.prompt_tokens)) + last
        except Exception as error:
            last = _event(api_error(error).body())
        await _send_body(send, last, more=False)


async def _until_hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(content) + b"\n\n"


async def _send_events(send: Send, chunks: Iterator[dict[str, Any]]) -> None:
    """Send chunks together: a client that falls behind costs one write for all it has missed."""
    body = b"".join(map(_event, chunks))
    if body:
        await _send_body(send, body)


async def _send_body(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _send_whole(response: Response, send: Send) -> None:
    start = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "http.response.start", **start})
    await _send_body(send, bytes(response.body), more=False)


def _log_texts(job: Job, reply: Reply) -> None:
    for request, builder in zip(job.requests, reply.builders):
        line = {"model": job.model, "prompt": request.prompt, "text": builder.text}
        _LOG.info("%s", to_json(line).decode())
