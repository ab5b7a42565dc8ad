"""A MongoDB server for tests, started as a process of its own, and configs that name it.

With ``FAIRTALE_MONGO`` in the environment, a connection string, that server is used instead.
"""

import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pymongo

from fairtale.data.documents.mongo_config import MongoConfig, Secret
from fairtale.data.documents.mongo_server import MongoServer

START_SECONDS = 30


class MongoProcess:
    """``nx-27017``, which keeps its database in a file and speaks MongoDB's protocol."""

    def __init__(self, folder):
        self.folder = Path(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"mongodb://127.0.0.1:{self.port}/"
        self.process = None

    def start(self):
        """Start the server on its port, and wait until it answers."""
        words = ["--data-dir", str(self.folder / "databases"), "-p", str(self.port)]
        words += [
            "--log-file",
            str(self.folder / "nx.log"),
            "--pid-file",
            str(self.folder / "nx.pid"),
        ]
        with open(self.folder / "nx.out", "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nx_27017.nx_27017", *words], stdout=out, stderr=out
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "nx.out").read_text())

    def kill(self):
        """End the server as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Mongo:
    """A database of its own on a server, and configs for it."""

    def __init__(self, address, folder):
        self.address = address
        self.folder = Path(folder)
        self.name = f"fairtale_{uuid.uuid4().hex[:12]}"
        # importing fairseq lets every logger speak
        logging.getLogger("pymongo").setLevel(logging.WARNING)
        self.client = pymongo.MongoClient(address, serverSelectionTimeoutMS=5000)
        self.database = self.client[self.name]

    def config(self, *collections, name="config.json", **values):
        """Write a config that names collections, and return its path."""
        path = self.folder / name
        described = {
            "MONGO_CONNECTION_STRING": self.address,
            "MONGO_CONNECTION_DB": self.name,
            "COLLECTIONS": list(collections),
            **values,
        }
        path.write_text(json.dumps({k: v for k, v in described.items() if v is not None}))
        return path

    def close(self):
        """Remove the database."""
        for name in self.database.list_collection_names():
            self.database.drop_collection(name)
        self.client.close()


def given_server():
    """The connection string of a server that is there already, or None."""
    return os.environ.get("FAIRTALE_MONGO")


class FakeCollection:
    """A collection in memory, with the few methods of pymongo's that are used."""

    def __init__(self, records=()):
        self.records = [dict(record) for record in records]
        self.indexes = {}
        self.num_finds = 0

    def index_information(self):
        return dict(self.indexes)

    def create_index(self, keys, unique=False):
        self.indexes[f"any_{len(self.indexes)}"] = {"key": keys, "unique": unique}

    def _matching(self, query):
        found = []
        for record in self.records:
            for name, rule in query.items():
                value = record.get(name)
                rules = rule if isinstance(rule, dict) else {"$eq": rule}
                if not isinstance(value, int | float):  # like MongoDB, which compares equal types
                    break
                if not all(_COMPARISONS[op](value, other) for op, other in rules.items()):
                    break
            else:
                found.append(record)
        return found

    def find(self, query, projection=None):
        self.num_finds += 1
        return FakeCursor(self._matching(query))

    def find_one(self, query, projection, sort):
        found = self.find(query).sort(sort).limit(1)
        return next(iter(found), None)

    def count_documents(self, query):
        return len(self._matching(query))

    def estimated_document_count(self):
        return len(self.records)

    def insert_many(self, records, ordered):
        self.records += records


_COMPARISONS = {
    "$eq": lambda a, b: a == b,
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lte": lambda a, b: a <= b,
}


class FakeCursor:
    """The documents that were found."""

    def __init__(self, records):
        self.records = records

    def sort(self, keys):
        for name, order in reversed(keys):
            self.records = sorted(self.records, key=lambda r: r[name], reverse=order < 0)
        return self

    def skip(self, count):
        self.records = self.records[count:]
        return self

    def limit(self, count):
        self.records = self.records[:count]
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __iter__(self):
        return iter([{k: v for k, v in r.items() if k != "_id"} for r in self.records])


def fake_server(failures=(), wait=0.0, **collections):
    """A :class:`MongoServer` of collections in memory, whose first requests raise errors."""
    failures = list(failures)
    found = {name: FakeCollection(records) for name, records in collections.items()}

    class Client:
        def __getitem__(self, database):
            if failures:
                raise failures.pop(0)
            return found

        def close(self):
            pass

    config = MongoConfig("c.json", Secret(ADDRESS), "corpus", tuple(collections))
    server = MongoServer(config, wait, lambda address: Client())
    server.fakes = found
    return server


PASSWORD = "s3cret-pw"
ADDRESS = f"mongodb://anna:{PASSWORD}@db.example:27018/?authSource=admin"


@contextlib.contextmanager
def running_server(folder):
    """The address of the server that is given, or of one that runs meanwhile."""
    if given_server():
        yield given_server()
        return
    process = MongoProcess(folder)
    process.start()
    try:
        yield process.address
    finally:
        process.kill()


WORDS = "кот дом и ночь шёл снег the cat sat 한국 말 on.".split()


def work(number):
    draw = random.Random(number)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(3)]
    return f"{number} " + "\n".join(lines)


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
