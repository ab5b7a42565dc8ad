"""A MongoDB server for tests, started as a process of its own, and configs that name it.

With ``FAIRTALE_MONGO`` in the environment, a connection string, that server is used instead.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pymongo

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
        words = ["--db", str(self.folder / "nx.db"), "-p", str(self.port)]
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
