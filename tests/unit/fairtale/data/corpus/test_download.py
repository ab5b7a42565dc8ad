"""Downloads are resumed, and the result is verified."""

import gzip
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fairtale.data.corpus import download as module
from fairtale.data.corpus.download import download
from fairtale.errors import UserError

DATA = gzip.compress(os.urandom(300_000), mtime=0)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Site:
    """The behaviour of the server below, and a record of the requests."""

    def __init__(self):
        self.ranges = True
        self.headers = {}  # added to each answer
        self.failures = []  # statuses of the first answers to GET; 0: half of the file
        self.asked = []  # (method, Range)
        self.url = ""


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_TRIES", 0.0)
    settings = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            settings.asked.append(("HEAD", None))
            self.answer(200, b"")

        def do_GET(self):
            wanted = self.headers.get("Range")
            settings.asked.append(("GET", wanted))
            failure = settings.failures.pop(0) if settings.failures else None
            start = int(wanted[6:-1]) if wanted and settings.ranges else 0
            if failure:
                self.answer(failure, b"no")
            elif start >= len(DATA):
                self.answer(416, b"")
            else:
                body = DATA[start:]
                cut = len(body) // 2 if failure == 0 else len(body)
                self.answer(206 if start else 200, body, cut)

        def answer(self, status, body, cut=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in settings.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:cut])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings.url = f"http://127.0.0.1:{server.server_port}/there.gz"
    yield settings
    server.shutdown()
    server.server_close()


def test_what_is_there_is_not_fetched_again(site, tmp_path):
    path = tmp_path / "deep" / "here.gz"
    download(site.url, str(path), SHA256)
    assert path.read_bytes() == DATA and os.listdir(path.parent) == ["here.gz"]
    asked = len(site.asked)
    download(site.url, str(path), SHA256)
    assert len(site.asked) == asked


@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_it_stopped(site, tmp_path, ranges):
    """A download restarts if the server cannot send a part of the file."""
    site.ranges = ranges
    (tmp_path / "here.gz.part").write_bytes(DATA[:100_000] if ranges else b"something else")
    download(site.url, str(tmp_path / "here.gz"), SHA256)
    assert (tmp_path / "here.gz").read_bytes() == DATA
    assert site.asked[-1] == ("GET", f"bytes={100_000 if ranges else 14}-")
    assert not (tmp_path / "here.gz.part").exists()


def test_a_connection_that_breaks_is_taken_up_again(site, tmp_path):
    site.failures = [0, 503, 0]
    download(site.url, str(tmp_path / "here.gz"))
    assert (tmp_path / "here.gz").read_bytes() == DATA
    starts = [wanted for method, wanted in site.asked if method == "GET"]
    assert len(starts) == 4 and starts[1] == starts[2] and None not in starts[1:]


def test_a_download_that_was_whole_but_not_yet_checked(site, tmp_path):
    (tmp_path / "here.gz.part").write_bytes(DATA)
    download(site.url, str(tmp_path / "here.gz"))
    assert (tmp_path / "here.gz").read_bytes() == DATA


def test_a_file_declared_as_packed_on_the_way_stays_packed(site, tmp_path):
    site.headers = {"Content-Encoding": "x-gzip"}
    download(site.url, str(tmp_path / "here.gz"), SHA256)
    assert (tmp_path / "here.gz").read_bytes() == DATA


def test_what_hugging_face_announces_is_checked(site, tmp_path):
    site.headers = {"X-Linked-Size": str(len(DATA)), "X-Linked-ETag": f'"{SHA256}"'}
    (tmp_path / "here.gz.part").write_bytes(DATA)  # whole: nothing is fetched
    download(site.url, str(tmp_path / "here.gz"))
    assert site.asked == [("HEAD", None)]
    site.headers["X-Linked-ETag"] = f'"{"0" * 64}"'
    with pytest.raises(UserError, match="SHA-256 is not 000"):
        download(site.url, str(tmp_path / "new.gz"))
    assert (tmp_path / "new.gz.damaged").exists() and not (tmp_path / "new.gz").exists()
    site.headers["X-Linked-Size"] = "7"
    with pytest.raises(UserError, match=f"has {len(DATA)} bytes and should have 7; run again"):
        download(site.url, str(tmp_path / "new.gz"))


def test_a_refusal(site, tmp_path):
    site.failures = [404, 500, 500, 500, 500, 500, 500]
    with pytest.raises(UserError, match=r"could not fetch http.*404.*--source PATH"):
        download(site.url, str(tmp_path / "here.gz"))
    assert [method for method, _ in site.asked] == ["HEAD", "GET"]
    with pytest.raises(UserError, match=r"could not fetch http.*500"):
        download(site.url, str(tmp_path / "here.gz"))
    assert not site.failures and os.listdir(tmp_path) == []


def test_a_mirror_in_a_folder(tmp_path):
    there = tmp_path / "there with spaces.gz"
    there.write_bytes(DATA)
    (tmp_path / "here.gz.part").write_bytes(DATA[:100_000])
    download(there.as_uri(), str(tmp_path / "here.gz"), SHA256.upper())
    assert (tmp_path / "here.gz").read_bytes() == DATA
    there.write_bytes(DATA[:5000])
    with pytest.raises(UserError, match="cut-here.gz.part is not a whole gzip file"):
        download(there.as_uri(), str(tmp_path / "cut-here.gz"))
    assert not (tmp_path / "cut-here.gz").exists()
    there.unlink()
    with pytest.raises(UserError, match="could not fetch file:.*there%20with"):
        download(there.as_uri(), str(tmp_path / "none-here.gz"))
    with pytest.raises(UserError, match="could not fetch gopher:"):
        download("gopher://site/a.gz", str(tmp_path / "none-here.gz"))


def test_a_progress_bar_reaches_the_end(site, tmp_path):
    class Bar:
        total = count = 0

        def update(self, number):
            self.count += number

        def reset(self):
            self.count = 0

        def close(self):
            self.closed = True

    bar = Bar()
    download(site.url, str(tmp_path / "here.gz"), new_bar=lambda: bar)
    assert bar.count == bar.total == len(DATA) and bar.closed
