"""Which files ``dialog_amazon_qa/prepare.sh`` fetches: only those that the site has."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CURL = """#!/usr/bin/env bash
case $1 in -sI) exit 0 ;; esac
while [ "$1" != -o ]; do shift; done
echo "$3" >>"$FETCHED"
echo | gzip >"$2"
"""


@pytest.fixture
def fetched(tmp_path):
    """Run a copy of the script, in which curl only notes its URL; return ``(names, stderr)``."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    curl = tmp_path / "bin" / "curl"
    curl.parent.mkdir()
    curl.write_text(CURL)
    curl.chmod(0o755)
    path = [str(curl.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    env = {**os.environ, "PATH": os.pathsep.join(path), "FETCHED": str(tmp_path / "fetched")}
    env["AMAZON_QA_URL"] = "http://site"

    def run(*options):
        words = ["bash", "scripts/dialog_amazon_qa/prepare.sh", "--data-bin", "data", *options]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode != 0  # the copy ends where it would clean what it has fetched
        urls = tmp_path / "fetched"
        lines = urls.read_text().splitlines() if urls.exists() else []
        return [url.removeprefix("http://site/") for url in lines], done.stderr

    return run


def test_a_shop_without_a_file_of_many_answers(fetched):
    names, told = fetched("--categories", "Appliances Baby Software")
    assert names == [
        "qa_Appliances.json.gz",
        "qa_Baby.json.gz",
        "qa_Software.json.gz",
        "icdm/QA_Baby.json.gz",
    ]
    assert "Appliances: there is no file with many answers" in told


def test_all_files(fetched):
    names, _ = fetched()
    assert len(names) == 21 + 17
    assert sum(name.startswith("icdm/QA_") for name in names) == 17
    assert "icdm/QA_Appliances.json.gz" not in names


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--answers many --categories Software", "--categories 'Software' --answers many"),
        ("--categories Babies", "--categories Babies: not one of Appliances Arts_Crafts"),
    ],
)
def test_shops_that_are_not_there(fetched, options, told):
    names, error = fetched(*options.split())
    assert not names
    assert error.splitlines()[-1].startswith("error: ") and told in error
