"""Files that appear complete or not at all."""

import os
import stat

import pytest

from fairtale.cli.files import whole_file


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as stream:
        stream.write("\u0436\n")
        assert not path.exists()
    assert path.read_bytes() == b"\xd0\xb6\n"
    assert os.listdir(path.parent) == ["a.txt"]
    with whole_file(path, "wb") as stream:
        stream.write(b"\xff\r\n")
    assert path.read_bytes() == b"\xff\r\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_is_untouched(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as stream:
        stream.write("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.txt") as stream:
            stream.write("x")
        assert os.umask(0o027) == 0o027  # asking for it has not changed it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
