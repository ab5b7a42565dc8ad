"""Compressed files and archives are read in order; damage is named."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest

from fairtale.data.corpus.containers import (
    CountedStream,
    named_damage,
    open_stream,
    read_members,
    without_packing,
)
from fairtale.data.story.records import StoryReport
from fairtale.errors import UserError

FILES = {"a/1.txt": b"one\n", "../2.txt": b"two\n", "a/._1.txt": b"hidden", "b/": b""}


def packed_zip():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return data.getvalue()


def packed_tar(mode):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return data.getvalue()


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_members_are_read_and_nothing_is_unpacked(tmp_path, mode):
    path = tmp_path / "x"
    path.write_bytes(packed_zip() if mode == "zip" else packed_tar(mode))
    found = [(member.name, member.size, member.stream.read()) for member in read_members(str(path))]
    assert found == [("a/1.txt", 4, b"one\n"), ("../2.txt", 4, b"two\n")]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_compressed_files_are_recognised_by_their_content(tmp_path, pack):
    path = tmp_path / "x.txt"
    path.write_bytes(pack(b"hello\n" * 9999))
    seen, report = [], StoryReport()
    with open_stream(str(path), seen.append) as stream:
        counted = CountedStream(stream, report)
        while counted.read(777):
            pass
    assert (report.num_bytes, report.num_lines) == (6 * 9999, 9999)
    assert sum(seen) == path.stat().st_size


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_damage_is_named(tmp_path, pack):
    path = tmp_path / "x.txt"
    whole = pack(os.urandom(99_999))
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 255
    for data in (whole[:-30], bytes(broken)):
        path.write_bytes(data)
        with (
            pytest.raises(UserError, match="x.txt: damaged or incomplete compressed file"),
            named_damage(str(path)),
            open_stream(str(path)) as stream,
        ):
            while stream.read(1 << 16):
                pass


def test_zip_files_that_are_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
    with pytest.raises(UserError, match="office program"):
        list(read_members(str(path)))
    data = bytearray(packed_zip())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1  # the flag of encryption, in the directory
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="1.txt in it is encrypted"):
        list(read_members(str(path)))
    path.write_bytes(packed_zip()[:-30])
    with pytest.raises(UserError, match="damaged or incomplete archive"):
        list(read_members(str(path)))


def test_the_extension_of_a_compression_goes():
    assert [without_packing(name) for name in ("a.txt.gz", "a.TXT.XZ", "gz", "a.txt")] == [
        "a.txt", "a.TXT", "gz", "a.txt",
    ]  # fmt: skip
