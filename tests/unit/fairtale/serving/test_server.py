"""A real process with real connections: slow, bad and numerous clients, signals and sudden ends."""

import json
import signal
import socket
import threading
import time
from http import HTTPStatus

import httpx
import openai
import pytest

from tests.serving_calls import SECONDS, fake_service, wait_until

BODY = {"model": "story", "prompt": "Once", "min_tokens": 100, "seed": 1}


@pytest.fixture(scope="module")
def impatient():
    """A service that waits for slow clients for half a second."""
    with fake_service(
        *("--patience", "0.5", "--max-connections", 4, "--delay", 0, "--positions", 2_000_000)
    ) as service:
        yield service


def connect(service, receive_buffer=None):
    connection = socket.socket()
    connection.settimeout(SECONDS)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", service.port))
    return connection


def rest(connection):
    """Read until the other end closes; return (head, body)."""
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head.decode(), body


def established(connection):
    """Whether the other end has not closed (the first byte of Linux's struct tcp_info)."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


def post(body, path="/v1/completions", length=None):
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(content)}\r\n\r\n".encode() + content


def running(service):
    """How many requests the story's engine works on."""
    for line in httpx.get(f"{service.url}/metrics").text.splitlines():
        if line.startswith('fairtale:num_requests_running{model_name="story"}'):
            return float(line.split()[-1])
    raise AssertionError


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"", 408, "slow_head"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n", 408, "slow_head"),
        (post({}, length=1000), 408, "slow_body"),
        (b"hello\r\n\r\n", 400, "http"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, 400, "http"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "http"),
    ],
    ids=["nothing", "half a head", "half a body", "no HTTP", "long head", "bad chunk"],
)
def test_who_is_slow_or_speaks_no_http_is_told_in_the_same_format(impatient, sent, status, code):
    with connect(impatient) as connection:
        connection.sendall(sent)
        head, body = rest(connection)
    assert head.startswith(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n")
    assert json.loads(body)["error"]["code"] == code


def test_a_second_head_may_not_be_slow_either(impatient):
    whole = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(impatient) as connection:
        connection.sendall(whole)
        received = b""
        while not received.endswith(b'"ok"}'):
            received += connection.recv(65536)
        connection.sendall(whole[:20])
        head, body = rest(connection)
    assert head.startswith("HTTP/1.1 408 ")


def test_a_head_that_comes_in_parts_is_accepted(impatient):
    with connect(impatient) as connection:
        for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert rest(connection)[0].startswith("HTTP/1.1 200 ")


def test_a_reader_who_takes_nothing_is_cut_off(impatient):
    """Its 32 MB are more than the buffers of the system hold."""
    body = {**BODY, "stream": True, "min_tokens": 1000, "logprobs": 20, "n": 32}
    with connect(impatient, receive_buffer=4096) as connection:
        connection.sendall(post(body))
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        wait_until(lambda: not established(connection))
        wait_until(lambda: running(impatient) == 0)
        with pytest.raises(ConnectionResetError):
            rest(connection)


def test_too_many_connections_are_refused(impatient):
    idle = [connect(impatient) for _ in range(4)]
    answer = httpx.get(f"{impatient.url}/health")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "too_many_connections"
    idle += [connect(impatient) for _ in range(4)]
    with connect(impatient) as beyond, pytest.raises(ConnectionResetError):
        beyond.sendall(b"GET /health HTTP/1.1\r\n")
        while beyond.recv(100):
            pass
        raise ConnectionResetError  # closed without a reset
    for connection in idle:
        connection.close()
    wait_until(lambda: httpx.get(f"{impatient.url}/health").status_code == 200)


def test_a_client_that_hangs_up_frees_its_place(impatient):
    for stream in (True, False):
        # the batch of the fake engine makes these for as long as anybody listens
        body = {**BODY, "min_tokens": 10**6, "stream": stream}
        with connect(impatient) as connection:
            connection.sendall(post(body))
            wait_until(lambda: running(impatient) == 1)
        wait_until(lambda: running(impatient) == 0)


def in_thread(function):
    """Run a function beside the test; return a function that waits for its result."""
    results = []

    def work():
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def result():
        thread.join(SECONDS)
        (found,) = results
        return found

    return result


def client(service, **options):
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, **options)


def whole_text(service, **options):
    """A completion of 100 words, through a client of its own."""
    done = client(service).completions.create(
        model="story", prompt="Once", seed=1, extra_body={"min_tokens": 100}, **options
    )
    return done.choices[0].text if not options else "".join(c.choices[0].text for c in done)


def test_sigterm_finishes_what_runs_and_refuses_what_comes():
    with fake_service("--delay", "0.02", "--grace", "30") as service:
        waiting = [in_thread(lambda: whole_text(service))]
        waiting.append(in_thread(lambda: whole_text(service, stream=True)))
        wait_until(lambda: running(service) == 2)
        service.signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{service.url}/health").status_code == 503)
        with pytest.raises(openai.InternalServerError) as refusal:
            whole_text(service)
        assert refusal.value.status_code == 503 and refusal.value.code == "shutting_down"
        texts = [result() for result in waiting]
        assert texts[0] == texts[1] and len(texts[0].split()) == 100
        status, logged = service.end()
    assert status == 0 and logged == ""


def test_what_is_not_finished_within_the_grace_ends_with_an_error():
    with fake_service("--delay", "0.05", "--grace", "0.3") as service:
        waiting = [in_thread(lambda: whole_text(service))]
        waiting.append(in_thread(lambda: whole_text(service, stream=True)))
        wait_until(lambda: running(service) == 2)
        service.signal(signal.SIGINT)
        whole, stream = (result() for result in waiting)
        assert isinstance(whole, openai.InternalServerError) and "has stopped" in str(whole)
        assert isinstance(stream, openai.APIError) and "has stopped" in str(stream)
        assert service.end()[0] == 0


def test_a_second_signal_ends_at_once():
    with fake_service("--delay", "0.05", "--grace", "600") as service:
        result = in_thread(lambda: whole_text(service))
        wait_until(lambda: running(service) == 1)
        service.signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{service.url}/health").status_code == 503)
        service.signal(signal.SIGTERM)
        assert service.end()[0] == -signal.SIGTERM
        assert isinstance(result(), openai.APIConnectionError)


def test_clients_of_a_killed_service_see_a_clean_error():
    with fake_service("--delay", "0.05") as service:
        results = [in_thread(lambda: whole_text(service)) for _ in range(3)]
        results += [in_thread(lambda: whole_text(service, stream=True)) for _ in range(3)]
        wait_until(lambda: running(service) == 6)
        service.signal(signal.SIGKILL)
        for result in results:
            error = result()
            assert isinstance(error, openai.APIConnectionError | httpx.RemoteProtocolError), error
        before = time.monotonic()
        with pytest.raises(openai.APIConnectionError):
            whole_text(service)
        assert time.monotonic() - before < SECONDS


def test_a_port_in_use_is_reported():
    from fairtale.errors import UserError
    from fairtale.serving.server import address_of, is_loopback, listen

    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        assert address_of(bound) == f"http://127.0.0.1:{port}" and is_loopback(bound)
        with pytest.raises(UserError, match=f"--host 127.0.0.1 --port {port}: cannot listen.*port"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="--host no.such.host.invalid --port 0: cannot listen"):
        listen("no.such.host.invalid", 0)
    with listen("0.0.0.0", 0) as bound:
        assert not is_loopback(bound)
