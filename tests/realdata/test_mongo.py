"""Real works and pairs through a database and through files: the shards are bit-equal."""

import csv
import itertools
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
        if name not in ("report.json", "prepare.txt", "preprocess.log", "text")
    }


def self_dialogues(realdata):
    """Each turn of the real conversations with the one that answers it, every other turn."""
    path = realdata / "dialog" / "self_dialogue" / "conversations.jsonl"
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            turns = json.loads(line)["turns"]
            for question, answer in zip(turns[::2], turns[1::2]):
                yield {"q": question, "a": answer}


def test_self_dialogues_as_conversations(realdata, mongo, tmp_path):
    """Through `fairtale documents` and through `prepare dialogs`, from files and from a server."""
    pairs = list(itertools.islice(self_dialogues(realdata), 20_000))
    talk = tmp_path / "talk.jsonl"
    talk.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    text = tmp_path / "sample.txt"
    text.write_text("".join(f"{pair['q']}\n{pair['a']}\n" for pair in pairs[:5000]))
    marks = "--symbols", "<CTX>", "<SEP>"
    run("bpe", "train", text, "--output", tmp_path / "model", "--vocab-size", "2000", *marks)
    config = mongo.config("talk")
    # as they are, so that both ways clean the same text
    assert "20,000 documents written" in run(
        "mongo", "import", talk, "--config", config, "--clean", "none"
    )
    sources = {"files": talk, "mongo": f"mongo:{config}"}
    for name, source in sources.items():
        words = ["--tokenizer", tmp_path / "model", "--valid", "0.05", "--workers", "2"]
        run("documents", source, "--output", tmp_path / f"documents_{name}", *words)
        words = ["prepare", "dialogs", "--source", source, *words, "--test", "0.05"]
        done = fairtale(*words, "--data-bin", tmp_path / f"dialogs_{name}")
        assert done.returncode == 0, done.stderr
    for verb in ("documents", "dialogs"):
        made, other = (files(tmp_path / f"{verb}_{name}") for name in sources)
        assert made == other and len(made["train.bin"]) > 500_000


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
