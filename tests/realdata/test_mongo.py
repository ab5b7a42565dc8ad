"""Real works and pairs through a database and through files: the shards are bit-equal."""

import csv
import json
import os

import pytest

from tests.cli.fairtale_command import fairtale
from tests.mongo_helpers import Mongo, MongoProcess, given_server

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture
def mongo(tmp_path):
    process = None
    if not given_server():
        process = MongoProcess(tmp_path)
        process.start()
    mongo = Mongo(given_server() or process.address, tmp_path)
    yield mongo
    mongo.close()
    if process is not None:
        process.kill()


def run(*words):
    done = fairtale(*words, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder):
    return {
        name: (folder / name).read_bytes()
        for name in os.listdir(folder)
        if name not in ("report.json", "prepare.txt")
    }


def test_russian_works_and_korean_pairs(realdata, mongo, tmp_path):
    with open(
        realdata / "dialog" / "korean_chatbot" / "ChatbotData.csv", encoding="utf-8", newline=""
    ) as stream:
        pairs = [{"q": row["Q"], "a": row["A"]} for row in csv.DictReader(stream)]
    talk = tmp_path / "talk.jsonl"
    talk.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    texts = [tmp_path / "questions.txt", realdata / "russian" / "Chekhov__Vanka.txt"]
    texts[0].write_text("".join(f"{pair['q']}\n" for pair in pairs))
    marks = "--symbols", "<CTX>", "<SEP>"
    run("bpe", "train", *texts, "--output", tmp_path / "model", "--vocab-size", "1000", *marks)
    sources = {"works": realdata / "russian", "talk": talk}
    for name, source in sources.items():
        config = mongo.config(name, name=f"{name}.json")
        run("mongo", "import", source, "--config", config)
        words = ["--tokenizer", tmp_path / "model", "--valid", "0.1", "--workers", "2"]
        run("documents", source, "--output", tmp_path / f"{name}_files", *words)
        run("documents", f"mongo:{config}", "--output", tmp_path / f"{name}_mongo", *words)
        assert files(tmp_path / f"{name}_files") == files(tmp_path / f"{name}_mongo")
    kept = {
        name: json.loads((tmp_path / f"{name}_mongo" / "report.json").read_text())["kept"]
        for name in sources
    }
    assert kept["works"] == 53 and kept["talk"] > 5800
    assert mongo.database["works"].find_one({"idx": 0})["id"] == "Bryusov__Motsart"
