"""Files of a corpus are found in folders; what cannot be read to its end is left out."""

import os

import pytest

from fairtale.data.corpus.source_files import find_files
from fairtale.data.documents.records import DocumentReport
from fairtale.data.documents.sources import SourceOptions, find_sources
from fairtale.errors import UserError


def test_pipes_and_links_to_nowhere_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "c.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d.txt")
    ignored = []
    found = find_files([str(tmp_path)], (".txt",), ignored)
    assert [os.path.basename(path) for path in found] == ["a.txt", "b.txt"]
    assert [os.path.basename(path) for path in ignored] == ["c.txt", "d.txt"]


def test_a_pipe_is_no_source_of_documents(tmp_path):
    os.mkfifo(tmp_path / "d.txt")
    with pytest.raises(UserError, match="d.txt: a pipe or a device"):
        find_sources([str(tmp_path / "d.txt")], SourceOptions(), DocumentReport())
