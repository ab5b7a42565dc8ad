"""Requests to a server: waiting while it is away, and errors that do not show its address."""

import logging
import traceback

import pytest
from pymongo import errors

from fairtale.data.documents import mongo_server
from fairtale.data.documents.mongo_config import MongoConfig, Secret
from fairtale.data.documents.mongo_server import MongoServer
from fairtale.errors import UserError
from tests.mongo_helpers import ADDRESS, PASSWORD, fake_server

GONE = [
    errors.ServerSelectionTimeoutError(f"{ADDRESS}: timed out"),
    errors.AutoReconnect(f"{ADDRESS}: connection closed"),
    errors.NetworkTimeout(ADDRESS),
    errors.NotPrimaryError(ADDRESS),
    errors.CursorNotFound(ADDRESS),
]


class Clock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(mongo_server, "time", clock)
    return clock


def assert_hidden(error):
    shown = "".join(traceback.format_exception(error))
    chain = [error.__context__, error.__cause__]
    assert chain == [None, None], chain
    for secret in (PASSWORD, "anna", "db.example", ADDRESS):
        assert secret not in shown and secret not in repr(error)


def test_a_server_that_comes_back_is_waited_for(clock, caplog):
    server = fake_server(GONE, wait=60.0, docs=[{"idx": 1}])
    assert server.run(lambda database: len(database["docs"].records)) == 1
    assert 0 < clock.now <= len(GONE)
    assert caplog.text.count("the server does not answer") == 1 and PASSWORD not in caplog.text


@pytest.mark.parametrize("error", GONE, ids=lambda e: type(e).__name__)
def test_a_server_that_stays_away_is_an_error_after_the_wait(error, clock):
    server = fake_server([error] * 1000, wait=30.0)
    with pytest.raises(UserError, match="c.json: no server answers for 30 seconds") as caught:
        server.run(lambda database: None)
    assert clock.now == pytest.approx(30.0)
    assert_hidden(caught.value)


def test_the_first_contact_does_not_wait(clock):
    server = fake_server(GONE, wait=60.0)
    with pytest.raises(UserError, match="no server answers at the address") as caught:
        server.check()
    assert clock.now == 0
    assert_hidden(caught.value)


REFUSALS = {
    errors.OperationFailure(f"Authentication failed: {ADDRESS}", 18): "refuses the user or the pa",
    errors.OperationFailure(f"not authorized {ADDRESS}", 13): "refuses the user or the password",
    errors.OperationFailure(f"bad {ADDRESS}", 2): r"refuses a request \(OperationFailure, code 2",
    errors.InvalidOperation(ADDRESS): r"refuses a request \(InvalidOperation\)",
    errors.BulkWriteError({"writeErrors": [{"code": 11000, "op": ADDRESS}]}): "another program",
    errors.BulkWriteError({"writeErrors": [{"code": 5, "op": ADDRESS}]}): "refuses a request",
}


@pytest.mark.parametrize("error", REFUSALS, ids=range(len(REFUSALS)))
def test_refusals_are_named_without_the_address(error, clock):
    server = fake_server(docs=[])
    server.run(lambda database: None)

    def work(database):
        raise error

    with pytest.raises(UserError, match=REFUSALS[error]) as caught:
        server.run(work)
    assert_hidden(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        f"mongodb://anna:{PASSWORD}/x@db.example/",  # a slash that is not encoded
        f"mongodb://db.example:{PASSWORD}/",  # no number
        f"mongodb://db.example/?fancyOption={PASSWORD}",  # unknown
        f"mongodb://db.example/?tls={PASSWORD}",  # a wrong value
        f"mongodb+srv://anna:{PASSWORD}@db.example:1/",
    ],
)
def test_bad_addresses_are_refused_without_showing_them(address, capfd, recwarn):
    server = MongoServer(MongoConfig("c.json", Secret(address), "corpus", ("a",)))
    with pytest.raises(UserError, match="MONGO_CONNECTION_STRING is not accepted") as caught:
        server.check()
    assert_hidden(caught.value)
    printed = "".join(capfd.readouterr()) + "".join(str(w.message) for w in recwarn)
    assert PASSWORD not in printed


def test_the_driver_logs_no_address(caplog, monkeypatch):
    """What pymongo says about a server that is not there, even if all loggers are talkative."""
    monkeypatch.setattr(mongo_server, "_SELECTION_SECONDS", 0.05)
    address = f"mongodb://anna:{PASSWORD}@localhost.invalid:27099/"
    server = MongoServer(MongoConfig("c.json", Secret(address), "corpus", ("a",)), 0.0)
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(UserError, match="no server answers") as caught:
            server.check()
        server.close()
    assert not [text for text in (PASSWORD, "localhost.invalid", "27099") if text in caplog.text]
    assert_hidden(caught.value)


def test_errors_of_the_work_itself_stay_as_they_are():
    server = fake_server(docs=[])

    def work(database):
        raise ZeroDivisionError

    server = fake_server(wait=1.0, docs=[])
    with pytest.raises(ZeroDivisionError):
        server.run(work)
