"""Documents of a server that speaks MongoDB's protocol become shards, also after crashes.

The server is a process of its own, or the one that FAIRTALE_MONGO names.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import threading
import time

import pytest

from fairtale.data.corpus.binarized import load_binarized
from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.data.corpus.tokenizer_dictionary import read_dictionary
from tests.cli.fairtale_command import assert_user_error, fairtale
from tests.mongo_helpers import Mongo, MongoProcess, given_server, running_server, work, write_lines

NUM_WORKS = 900


def files(folder):
    """The content of every file of a folder but the report, whose places name the source."""
    names = sorted(os.listdir(folder))
    return {n: (folder / n).read_bytes() for n in names if n not in ("report.json", "prepare.txt")}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server."""
    with running_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with works, pairs, and a tokenizer that was trained on them."""
    folder = tmp_path_factory.mktemp("data")
    records = [{"id": f"w{n}", "text": work(n)} for n in range(NUM_WORKS)]
    records[70] = {"id": "again", "text": work(7)}
    write_lines(folder / "works.jsonl", records)
    pairs = [{"q": f"질문 {n}?", "a": f"ответ {n}. the end"} for n in range(60)]
    write_lines(folder / "pairs.jsonl", pairs)
    words = ["works.jsonl", "--output", "model", "--vocab-size", 300]
    done = fairtale("bpe", "train", *words, "--symbols", "<CTX>", "<SEP>", "--quiet", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def filled(server, data, tmp_path_factory):
    """A database with the works in two collections, and the pairs in one."""
    mongo = Mongo(server, tmp_path_factory.mktemp("filled"))
    lines = (data / "works.jsonl").read_text().splitlines(keepends=True)
    config = mongo.config("part_b", "part_a")
    for name, part in (("part_b", lines[:500]), ("part_a", lines[500:])):
        path = mongo.folder / f"{name}.jsonl"
        path.write_text("".join(part))
        words = [path, "--config", config, "--collection", name, "--quiet"]
        done = fairtale("mongo", "import", *words)
        assert done.returncode == 0, done.stderr
        assert f"{name}: {len(part)} documents written, 0 were there already" in done.stdout
    done = fairtale("mongo", "import", data / "pairs.jsonl", "--quiet", "--config",
                    mongo.config("talk", name="talk.json"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    yield mongo
    mongo.close()


def exporting(data, source, output, *words, limit=None, **patches):
    """Python code of an export; numbers of the module may be replaced, such as pauses."""
    words = ["documents", source, "--output", output, "--tokenizer", data / "model", *words]
    words += ["--valid", "0.1", "--quiet", "--shard-documents", 250]
    return EXPORTING.format(words=[str(word) for word in words], limit=limit, patches=patches)


def export(fairseq, *words, check=True, **patches):
    """Run an export in a process of its own, which is forked to save the imports."""
    return fairseq.run(None, before=exporting(*words, **patches), check=check)


# Steps can be made small and slow, and a process can kill itself after some seconds.
EXPORTING = """
import os, resource, signal, sys, threading, time
from fairtale.cli import export_shards, main
from fairtale.data.documents import mongo_server
patches = {patches}
mongo_server._SELECTION_SECONDS = 0.3
export_shards._TASK_DOCUMENTS = patches.get("step", 1000)
export_shards._SECONDS_BETWEEN_COMMITS = patches.get("between", 1.0)
write = export_shards.Export._write
def slow(self, *args):
    time.sleep(patches.get("pause", 0))
    write(self, *args)
export_shards.Export._write = slow
if "kill_after" in patches:
    end = lambda: os.kill(os.getpid(), signal.SIGKILL)
    threading.Timer(patches["kill_after"], end).start()
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main.main({words}))
"""


@pytest.fixture(scope="module")
def expected(fairseq, data, tmp_path_factory):
    """The shards that are made from the file, by one process."""
    folder = tmp_path_factory.mktemp("expected") / "bin"
    export(fairseq, data, data / "works.jsonl", folder, "--workers", 1)
    return folder


# ----------------------------------------------------------------------- the whole way


def test_a_database_and_files_give_bit_equal_shards(filled, data, expected, fairseq, tmp_path):
    words = data, f"mongo:{filled.folder / 'config.json'}", tmp_path / "bin", "--workers", 2
    done = export(fairseq, *words)
    assert "works kept: 899" in done.out and "skipped, duplicate: 1" in done.out
    assert files(tmp_path / "bin") == files(expected)
    assert {"train.bin", "train3.idx", "valid.idx", "dict.txt"} <= set(files(expected))
    report = json.loads((tmp_path / "bin" / "report.json").read_text())
    assert report["kept"] == 899 and sum(report["subsets"].values()) == 899
    assert "is ready" in export(fairseq, *words).err
    other = export(fairseq, *words, "--seed", 2, check=False)
    assert other.status == 2 and "was made with other settings" in other.error


def test_shards_are_what_prepare_documents_makes(filled, data, expected, tmp_path):
    source = f"mongo:{filled.folder / 'config.json'}"
    words = ["--tokenizer", data / "model", "--valid", "0.1", "--data-bin", tmp_path / "bin"]
    done = fairtale("prepare", "documents", "--source", source, *words, "--workers", 1)
    assert done.returncode == 0, done.stderr
    train = load_binarized(str(expected / "train"), None, combine=True)
    stock = load_binarized(str(tmp_path / "bin" / "train"), None)
    assert len(train.prefixes) > 3 and len(stock.prefixes) == 1
    assert [t.tolist() for t in train] == [t.tolist() for t in stock]
    for name in ("valid.bin", "valid.idx", "dict.txt", "tokenizer.json"):
        assert (tmp_path / "bin" / name).read_bytes() == (expected / name).read_bytes()


def test_questions_and_answers_become_dialog_lines(filled, data, fairseq, tmp_path):
    outputs = []
    for number, source in enumerate((data / "pairs.jsonl", f"mongo:{filled.folder}/talk.json")):
        export(fairseq, data, source, tmp_path / f"bin{number}", "--workers", 64)
        outputs.append(files(tmp_path / f"bin{number}"))
    assert outputs[0] == outputs[1]
    dictionary = read_dictionary(str(tmp_path / "bin0" / "dict.txt"))
    bpe = load_byte_level(str(data / "model"))
    lines = []
    for split in ("train", "valid"):
        for row in load_binarized(str(tmp_path / "bin0" / split), dictionary):
            pieces = dictionary.string(row, include_eos=True)
            question, answer = pieces.removesuffix(" </s>").split(" <SEP> ")
            lines.append((bpe.decode(question), bpe.decode(answer)))
    assert sorted(lines) == sorted((f"질문 {n}?", f"ответ {n}. the end") for n in range(60))
    done = fairtale("documents", f"mongo:{filled.folder}/talk.json", "--output", tmp_path / "text",
                    "--valid", "0.1", "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        '{"id": "talk/0", "q": "질문 0?", "a": ' in (tmp_path / "text" / "train.jsonl").read_text()
    )
    refused = fairtale("prepare", "documents", "--source", data / "pairs.jsonl", "--tokenizer",
                       data / "model", "--valid", "0.1", "--data-bin", tmp_path / "no")  # fmt: skip
    assert_user_error(refused, "it holds questions and answers, not works")


@pytest.mark.slow
def test_prepare_dialogs_reads_conversations_of_a_database(filled, data, tmp_path):
    made = []
    words = ["--tokenizer", data / "model", "--valid", "0.2", "--test", "0.1", "--workers", 1]
    for number, source in enumerate((data / "pairs.jsonl", f"mongo:{filled.folder}/talk.json")):
        output = tmp_path / str(number)
        done = fairtale("prepare", "dialogs", "--source", source, *words, "--data-bin", output)
        assert done.returncode == 0, done.stderr
        made.append({p.name: p.read_bytes() for p in output.iterdir() if p.is_file()})
        for name in ("prepare.txt", "preprocess.log"):  # with the names of source and folder
            del made[-1][name]
    assert {"train.bin", "valid.idx", "test.bin"} <= made[0].keys()
    assert made[0] == made[1]
    refused = fairtale("prepare", "dialogs", "--source", f"mongo:{filled.folder}/config.json",
                       *words, "--data-bin", tmp_path / "no")  # fmt: skip
    assert_user_error(refused, "is a work, without q and a")
    assert not (tmp_path / "no").exists()


def test_a_tokenizer_without_marks_is_refused_for_conversations(data, fairseq, tmp_path):
    words = [data / "works.jsonl", "--output", tmp_path / "model", "--vocab-size", 290, "--quiet"]
    assert fairtale("bpe", "train", *words).returncode == 0
    done = export(fairseq, tmp_path, data / "pairs.jsonl", tmp_path / "bin", check=False)
    assert done.status == 2 and "lacks <CTX> and <SEP>" in done.error
    assert "bpe train --dialog" in done.error


def test_a_full_disk_leaves_what_is_whole(data, expected, fairseq, tmp_path):
    words = data, data / "works.jsonl", tmp_path / "bin", "--workers", 1
    # bytes a file, as on a disk that is full
    done = export(fairseq, *words, limit=30_000, step=50, between=0, check=False)
    assert done.status == 2, done.out
    assert "cannot be written" in done.error and "run the same command again" in done.error
    assert not (tmp_path / "bin").exists()
    export(fairseq, *words)
    assert files(tmp_path / "bin") == files(expected)
    assert os.listdir(tmp_path) == ["bin"]


# ---------------------------------------------------------------------------- crashes


def wait_until(is_so):
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)


def wait_for(path):
    """Wait until an export has begun."""
    wait_until(path.exists)


def has_documents(path):
    """Whether an export would go on behind some document."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as state:
            return state.execute("SELECT 1 FROM hashes LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError:  # the table is not there yet, or it is being written
        return False


def killed_until_it_ends(fairseq, data, source, output, draw, num_kills, span):
    """Kill an export at random moments, then let it end; return how many kills struck."""
    struck = 0
    for _ in range(num_kills):
        after = draw.uniform(0, span)
        words = data, source, output, "--workers", 2
        done = export(
            fairseq, *words, check=False, kill_after=after, step=20, between=0, pause=0.01
        )
        assert done.status in (0, -signal.SIGKILL), done.err
        struck += done.status != 0
        if done.status == 0:
            break
    export(fairseq, data, source, output, "--workers", 2)
    return struck


@pytest.mark.parametrize("kind", ["files", "database"])
def test_a_killed_export_goes_on_where_it_stopped(kind, filled, data, expected, fairseq, tmp_path):
    source = data / "works.jsonl" if kind == "files" else f"mongo:{filled.folder}/config.json"
    draw = random.Random(5)
    assert killed_until_it_ends(fairseq, data, source, tmp_path / "bin", draw, 4, span=1.5)
    assert files(tmp_path / "bin") == files(expected)
    assert os.listdir(tmp_path) == ["bin"]
    report = json.loads((tmp_path / "bin" / "report.json").read_text())
    assert report["kept"] == 899 and report["skipped"] == {"duplicate": 1}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "database"])
def test_twenty_kills(kind, filled, data, expected, fairseq, tmp_path):
    source = data / "works.jsonl" if kind == "files" else f"mongo:{filled.folder}/config.json"
    draw, struck = random.Random(17), 0
    for number in range(20):
        output = tmp_path / str(number)
        struck += killed_until_it_ends(fairseq, data, source, output, draw, 4, span=2.5)
        assert files(output) == files(expected)
        if struck >= 20:
            break
    assert struck >= 20


@pytest.mark.slow
@pytest.mark.skipif(bool(given_server()), reason="kills its own server")
def test_twenty_kills_of_the_server(data, expected, fairseq, tmp_path):
    (tmp_path / "server").mkdir()
    process = MongoProcess(tmp_path / "server")
    process.start()
    mongo = Mongo(process.address, tmp_path / "server")
    config = mongo.config("docs")
    done = fairtale("mongo", "import", data / "works.jsonl", "--config", config, "--quiet")
    assert done.returncode == 0, done.stderr
    draw, num_kills, waited = random.Random(3), 0, 0

    def kill_and_start(output, ended):
        nonlocal num_kills
        wait_for(output.with_suffix(".partial") / "state.sqlite")
        while not ended.wait(draw.uniform(0.1, 0.8)) and num_kills < 20:
            process.kill()
            num_kills += 1
            time.sleep(draw.uniform(0, 1.0))
            process.start()

    for number in range(20):
        output, ended = tmp_path / str(number), threading.Event()
        thread = threading.Thread(target=kill_and_start, args=(output, ended))
        thread.start()
        words = data, f"mongo:{config}", output, "--workers", 2
        done = export(fairseq, *words, step=20, between=0, pause=0.1)
        ended.set()
        thread.join()
        waited += "the server does not answer; waiting for it for 300 seconds" in done.err
        assert files(output) == files(expected)
        if num_kills == 20:
            break
    process.kill()
    assert num_kills == 20 and waited


@pytest.mark.skipif(bool(given_server()), reason="kills its own server")
def test_a_server_that_stays_away_ends_the_export(data, expected, fairseq, tmp_path):
    (tmp_path / "server").mkdir()
    process = MongoProcess(tmp_path / "server")
    process.start()
    config = Mongo(process.address, tmp_path / "server").config("docs")
    done = fairtale("mongo", "import", data / "works.jsonl", "--config", config, "--quiet")
    assert done.returncode == 0, done.stderr

    def kill():
        wait_for(tmp_path / "bin.partial" / "state.sqlite")
        wait_until(lambda: has_documents(tmp_path / "bin.partial" / "state.sqlite"))
        process.kill()

    ending = threading.Thread(target=kill)
    ending.start()
    words = data, f"mongo:{config}", tmp_path / "bin", "--workers", 2, "--mongo-wait", 1
    done = export(fairseq, *words, step=20, between=0, pause=0.1, check=False)
    ending.join()
    assert done.status == 2 and "no server answers" in done.error, done.err
    assert not (tmp_path / "bin").exists()
    process.start()
    assert "going on behind" in export(fairseq, *words).err
    process.kill()
    assert files(tmp_path / "bin") == files(expected)


def test_two_exports_into_one_folder(data, expected, fairseq, tmp_path):
    words = data, data / "works.jsonl", tmp_path / "bin", "--workers", 2
    commands = [
        fairseq.prepare(None, before=exporting(*words, step=20, pause=0.05)) for _ in range(2)
    ]
    done = sorted(fairseq.together(*commands), key=lambda result: result.status)
    assert [result.status for result in done] == [0, 2], done[1].err
    assert "writes into this folder; wait for it" in done[1].error
    assert files(tmp_path / "bin") == files(expected)


def test_no_process_outlives_a_killed_export(data, fairseq, tmp_path):
    words = data, data / "works.jsonl", tmp_path / "bin", "--workers", 2
    done = export(fairseq, *words, check=False, kill_after=1.0, step=20, pause=0.5)
    assert done.status == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while _processes_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _processes_in(tmp_path)


def _processes_in(folder):
    """Processes that have a file below a folder open."""
    found = []
    for number in filter(str.isdecimal, os.listdir("/proc")):
        try:
            for handle in os.listdir(f"/proc/{number}/fd"):
                if os.readlink(f"/proc/{number}/fd/{handle}").startswith(str(folder)):
                    found.append(number)
        except OSError:
            continue
    return [number for number in found if int(number) != os.getpid()]
