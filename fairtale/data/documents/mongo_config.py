"""Read the config of a MongoDB database; its connection string is kept out of all texts."""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from ...errors import UserError

PREFIX = "mongo:"  # of a source's name: mongo:CONFIG.json
META_COLLECTION = "meta_info"
_STRING, _DATABASE, _COLLECTIONS = (
    "MONGO_CONNECTION_STRING",
    "MONGO_CONNECTION_DB",
    "COLLECTIONS",
)
_KEYS = (_STRING, _DATABASE, _COLLECTIONS)
# What MongoDB allows on every system; its limit is 63 bytes.
_DATABASE_NAME = re.compile(r"[^/\\. \"$*<>:|?\x00]{1,63}")


class Secret:
    """A text that no representation shows, and that cannot be pickled into a checkpoint."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection string is not stored")


@dataclass(frozen=True)
class MongoConfig:
    """Where documents are in a database.

    Args:
        path: the file of the config, for messages.
        connection_string: address, user name and password.
        database: name of the database.
        collections: names of the collections, which form one index in this order.
    """

    path: str
    connection_string: Secret
    database: str
    collections: tuple[str, ...]


def load_config(path: str) -> MongoConfig:
    """Read a config: a JSON object with exactly the three keys.

    Raises:
        UserError: the file is missing, no JSON, lacks a key or has another one, or a value has the
            wrong type. No message shows a value of the file.
    """
    values = _read(path)
    missing = [key for key in _KEYS if key not in values]
    unknown = [key for key in values if key not in _KEYS]
    if missing or unknown:
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        faults += [f"has {len(unknown)} unknown keys"] if unknown else []
        raise UserError(f"{path}: {' and '.join(faults)}; give exactly the keys {', '.join(_KEYS)}")
    string, database, collections = (values[key] for key in _KEYS)
    if not isinstance(string, str) or not string.startswith(("mongodb://", "mongodb+srv://")):
        raise UserError(f"{path}: {_STRING} must be a text that begins with mongodb://")
    if not isinstance(database, str) or not _DATABASE_NAME.fullmatch(database):
        raise UserError(f"{path}: {_DATABASE} must be the name of a database")
    return MongoConfig(path, Secret(string), database, _collections(path, collections))


def _read(path: str) -> dict[str, Any]:
    fault = None
    try:
        with open(path, encoding="utf-8") as stream:
            values = json.load(stream)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config of a MongoDB database") from None
    except json.JSONDecodeError as error:
        fault = f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError):
        fault = "not UTF-8, or nested too deeply"
    # raised out here, because the errors above hold the content of the file
    if fault is not None:
        raise UserError(f"{path}: not JSON ({fault})")
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object; give the keys {', '.join(_KEYS)}")
    return values


def _collections(path: str, names: Any) -> tuple[str, ...]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: {_COLLECTIONS} must be a list of names")
    for name in listed:
        if not isinstance(name, str) or not name or "$" in name or "\x00" in name:
            raise UserError(f"{path}: {_COLLECTIONS} has an entry that is no name of a collection")
        if name == META_COLLECTION or name.startswith("system."):
            raise UserError(f"{path}: {_COLLECTIONS}: {name} holds no documents; leave it out")
        if listed.count(name) > 1:
            raise UserError(f"{path}: {_COLLECTIONS} names {name} twice")
    return tuple(listed)
