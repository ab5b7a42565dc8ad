"""Talk to a MongoDB server: errors without its address, and waiting while it is away."""

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import UserError
from .mongo_config import MongoConfig

logger = logging.getLogger(__name__)

DEFAULT_WAIT = 300.0  # seconds
_SELECTION_SECONDS = 5.0  # how long the driver itself looks for a server
_SOCKET_SECONDS = 120.0  # without an answer, a server counts as gone
_PAUSE_SECONDS = 1.0
# codes of MongoDB: Unauthorized, AuthenticationFailed, that of Atlas
_ACCESS_CODES = (13, 18, 8000)
_DUPLICATE_CODE = 11000
_KEY = "MONGO_CONNECTION_STRING"

Result = TypeVar("Result")


class MongoServer:
    """A connection that is made anew after the server was away.

    The driver's own errors are never raised, also not as the cause of others, because they may
    hold parts of the connection string.

    Args:
        config: the database.
        wait: for how many seconds a server that is gone is waited for.
        connect: makes the driver's client from the connection string (default: pymongo).
    """

    def __init__(
        self,
        config: MongoConfig,
        wait: float = DEFAULT_WAIT,
        connect: Callable[[str], Any] | None = None,
    ) -> None:
        self.config = config
        self._wait = wait
        self._connect = connect or _connect
        self._client: Any = None

    def check(self) -> None:
        """Ask the server whether it is there, without waiting for one that is not.

        Raises:
            UserError: there is no server, or it refuses the user.
        """
        self._run(lambda database: database.command("ping"), 0.0)

    def run(self, work: Callable[[Any], Result]) -> Result:
        """Return the result of ``work``, which is repeated after the server was away.

        Args:
            work: takes the driver's database. It must do no harm if it is done twice.

        Raises:
            UserError: the server refuses, or has been away for too long.
        """
        return self._run(work, self._wait)

    def _run(self, work: Callable[[Any], Result], wait: float) -> Result:
        errors, bson_error = _library().errors, _bson_error()
        gone = (
            errors.ConnectionFailure,
            errors.NotPrimaryError,
            errors.CursorNotFound,
            errors.WaitQueueTimeoutError,
        )
        deadline: float | None = None
        while True:
            try:
                return work(self._database())
            except gone:
                fault = None
            except (errors.PyMongoError, bson_error) as error:
                fault = self._fault(error)
            except Exception as error:
                if isinstance(error, UserError) or (wait and self._client is not None):
                    raise
                # of the driver, which makes a connection here or talks to another kind of server
                fault = self._fault(error)
            # raised out here, so that the driver's error is not the context of ours
            if fault is not None:
                raise UserError(fault)
            now = time.monotonic()
            if deadline is None:
                deadline = now + wait
                if wait:
                    logger.warning("%s: %s", self.config.path, _waiting(wait))
            if now >= deadline:
                raise UserError(self._gone(wait))
            time.sleep(min(_PAUSE_SECONDS, deadline - now))

    def _database(self) -> Any:
        if self._client is None:
            self._client = self._connect(self.config.connection_string.reveal())
        return self._client[self.config.database]

    def _gone(self, wait: float) -> str:
        after = f" for {wait:g} seconds" if wait else ""
        return (
            f"{self.config.path}: no server answers{after} at the address in {_KEY}: start the "
            "server, or correct the address"
        )

    def _fault(self, error: Exception) -> str:
        """Return the message for an error, made only of texts that cannot hold the address."""
        path = self.config.path
        if self._client is None:
            return (
                f"{path}: {_KEY} is not accepted ({type(error).__name__}): write it as "
                "mongodb://USER:PASSWORD@HOST:PORT/ with special characters in percent-encoding"
            )
        code = getattr(error, "code", None)
        if code in _ACCESS_CODES:
            return (
                f"{path}: the server refuses the user or the password in {_KEY} (code {code}), or "
                f"the user may not use the database {self.config.database}"
            )
        if _DUPLICATE_CODE in {code, *_write_codes(error)}:
            return f"{path}: another program writes to the same collection; run again after it"
        shown = type(error).__name__ + ("" if code is None else f", code {code}")
        return f"{path}: the server of {_KEY} refuses a request ({shown}); its log says why"

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _write_codes(error: Exception) -> list[Any]:
    """Return the codes of the documents that could not be written."""
    details = getattr(error, "details", None) or {}
    return [fault.get("code") for fault in details.get("writeErrors", ())]


def _waiting(wait: float) -> str:
    return f"the server does not answer; waiting for it for {wait:g} seconds"


def _library() -> Any:
    try:
        import pymongo.errors
    except ImportError:
        raise UserError("pymongo is not installed; run: pip install 'fairtale[mongo]'") from None
    return pymongo


def _bson_error() -> type[Exception]:
    from bson.errors import BSONError  # comes with pymongo

    return BSONError


def _connect(connection_string: str) -> Any:
    drivers_logger = logging.getLogger("pymongo")
    if drivers_logger.level == logging.NOTSET:
        drivers_logger.setLevel(logging.WARNING)  # below, it shows the addresses of the servers
    with warnings.catch_warnings():
        # A warning about an option would show its value, and an unknown option has no effect.
        warnings.simplefilter("error", UserWarning)
        return _library().MongoClient(
            connection_string,
            serverSelectionTimeoutMS=int(1000 * _SELECTION_SECONDS),
            connectTimeoutMS=int(1000 * _SELECTION_SECONDS),
            socketTimeoutMS=int(1000 * _SOCKET_SECONDS),
            appname="fairtale",
        )
