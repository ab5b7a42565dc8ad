"""`fairtale mongo import` and `info` on a server that speaks MongoDB's protocol, and bad input.

The server is a process of its own, or the one that FAIRTALE_MONGO names.
"""

import json

import pytest

from tests.cli.fairtale_command import assert_user_error, fairtale
from tests.mongo_helpers import Mongo, running_server, work, write_lines

NUM_WORKS = 900
PASSWORD = "s3cret-pw"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server."""
    with running_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with works and pairs."""
    folder = tmp_path_factory.mktemp("data")
    write_lines(
        folder / "works.jsonl", [{"id": f"w{n}", "text": work(n)} for n in range(NUM_WORKS)]
    )
    write_lines(folder / "pairs.jsonl", [{"q": f"{n}?", "a": f"{n}."} for n in range(60)])
    return folder


@pytest.fixture
def mongo(server, data, tmp_path):
    """An empty database."""
    mongo = Mongo(server, tmp_path)
    yield mongo
    mongo.close()


# ------------------------------------------------------------------- import and info


def test_an_import_changes_nothing_the_second_time(mongo, data):
    config = mongo.config("docs")
    words = ["mongo", "import", data / "works.jsonl", "--config", config, "--quiet"]
    assert "docs: 900 documents written" in fairtale(*words).stdout
    first = list(mongo.database["docs"].find({}))
    mongo.database["docs"].delete_many({"idx": {"$gte": 600}})
    again = fairtale(*words)
    assert "docs: 300 documents written, 600 were there already" in again.stdout, again.stderr
    kept = list(mongo.database["docs"].find({}, {"_id": 0}).sort([("idx", 1)]))
    assert kept == [{k: v for k, v in record.items() if k != "_id"} for record in first]
    assert kept[3] == {"idx": 3, "id": "w3", "form": work(3), "filt_text": work(3)}
    stated = list(mongo.database["meta_info"].find({}, {"_id": 0}))
    assert stated == [{"collection_name": "docs", "num_docs": 900}]
    other = fairtale("mongo", "import", data / "pairs.jsonl", "--config", config, "--quiet")
    assert_user_error(other, "document with idx 0 is not the one of these files")


def test_info_names_every_fault(mongo):
    docs = mongo.database["docs"]
    good = {"form": "a", "filt_text": "a"}
    docs.insert_many([{"idx": n, **good} for n in (3, 4, 4, 9, 10)] + [good])
    mongo.database["meta_info"].insert_one({"collection_name": "docs", "num_docs": 5})
    done = fairtale("mongo", "info", "--config", mongo.config("docs", "none"))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1] == ["docs", "6", "3", "10", "4", "1", "1", "5"]
    assert rows[2] == ["none", "0", "-", "-", "0", "0", "0", "-"]
    for text in (
        "docs: 4 numbers are missing (between 4 and 9)",
        "docs: 1 documents have the idx of an earlier one (4)",
        "docs: 1 documents have no number in idx, and are never read",
        "docs: meta_info states 5 documents, but there are 6",
        "none: is missing or empty",
    ):
        assert text in done.stdout
    read = fairtale("documents", f"mongo:{mongo.config('docs')}", "--output", mongo.folder / "out",
                    "--valid", "0", "--max-loss", "1", "--quiet")  # fmt: skip
    assert "skipped, idx that an earlier document has: 1" in read.stdout, read.stderr
    assert "skipped, no number in idx: 1" in read.stdout


# ------------------------------------------------------------------------- bad input


def test_no_server_and_bad_configs(tmp_path, data):
    def config(**values):
        described = {"MONGO_CONNECTION_STRING": f"mongodb://anna:{PASSWORD}@127.0.0.1:1/",
                     "MONGO_CONNECTION_DB": "x", "COLLECTIONS": ["docs"], **values}  # fmt: skip
        (tmp_path / "c.json").write_text(json.dumps(described))
        return tmp_path / "c.json"

    commands = [
        ["mongo", "info", "--config", config()],
        ["documents", f"mongo:{tmp_path / 'c.json'}", "--output", tmp_path / "out"],
    ]
    for words in commands:
        done = fairtale(*words, env={"FAIRTALE_TRACEBACK": "1"})
        assert_user_error(done, "c.json: no server answers at the address")
        assert PASSWORD not in done.stdout + done.stderr and "anna" not in done.stderr
    assert not (tmp_path / "out").exists()
    config(MONGO_CONNECTION_STRING=f"mongodb://anna:{PASSWORD}/y@127.0.0.1/")
    done = fairtale(*commands[0])
    assert_user_error(done, "MONGO_CONNECTION_STRING is not accepted")
    assert PASSWORD not in done.stderr
    config(EXTRA=1)
    assert_user_error(fairtale(*commands[0]), "has 1 unknown keys; give exactly the keys")
    choose = ["mongo", "import", data / "works.jsonl", "--config"]
    done = fairtale(*choose, config(COLLECTIONS=["a", "b"]))
    assert_user_error(done, "choose one of its collections with --collection: a, b")
    done = fairtale(*choose, tmp_path / "c.json", "--collection", "c")
    assert_user_error(done, "--collection c:", "it has: a, b")


def test_unknown_names_are_refused(data, tmp_path):
    words = ["documents", data / "works.jsonl", "--output", tmp_path / "out"]
    done = fairtale(*words, "--clean", "magic")
    assert done.returncode == 2 and "works" in done.stderr and "lines" in done.stderr
    assert_user_error(fairtale(*words, "--workers", 2), "--workers: only with --tokenizer")
    assert_user_error(fairtale(*words, "--mongo-wait", "-1"), "--mongo-wait -1.0: give seconds")


def test_an_empty_collection_is_refused(mongo, tmp_path):
    done = fairtale("documents", f"mongo:{mongo.config('empty_one')}", "--output", tmp_path / "out")
    assert_user_error(done, "empty_one of the database", "fairtale mongo import")
