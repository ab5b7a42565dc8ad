"""Reading works on real corpora: what is removed from them, and that no work is lost."""

import json

import pytest

from tests.cli.fairtale_command import fairtale
from tests.document_helpers import read
from tests.unit.fairtale.data.corpus.test_words import as_pieces, byte_dictionary, count

pytestmark = pytest.mark.realdata


def test_no_russian_work_is_lost(realdata):
    folder = realdata / "russian"
    found, report = read(folder, max_chars=5_000_000)
    works = dict(found)
    assert sorted(works) == sorted(path.stem for path in folder.glob("*.txt"))
    assert len(works) == 53 and not report.skipped
    assert report.mended == {
        "wrapped lines joined": 5,
        "lines with uneven white space": 13,
        "lines of author and title removed": 50,
        "labelled header lines removed": 1,
        "footer lines removed": 5,
        "notes removed": 16,
        "references to notes removed": 4,
        "entities replaced": 1,
    }
    for name, text in works.items():
        original = (folder / f"{name}.txt").read_text(encoding="utf-8")
        # Without notes at least four fifths of a work are left, and most works are whole.
        assert len(text.split()) > 0.8 * len(original.split()), name
        assert "  " not in text and "\n\n" not in text and "&#" not in text and "\xa0" not in text
        assert text == text.strip()
    assert works["Chekhov__Vanka"].startswith("Ванька Жуков, девятилетний мальчик")
    assert works["Chekhov__Aptekarsha"].endswith("И тотчас же засыпает.")
    assert works["Bryusov__Motsart"].split("\n")[1].startswith("Где-то на башенных часах не спешно")
    assert works["Gogol__Mertvye_dushi"].split("\n")[:2] == ["Том первый", "Глава первая"]
    assert "il n'en réchappera pas." in works["Tolstoy__Voyna_i_mir_Tom_1"]


def test_books_lose_their_headers_and_nothing_else(realdata):
    folder = realdata / "stories" / "books"
    found, report = read(folder, max_chars=5_000_000)
    assert len(found) == 34 and not report.skipped
    assert report.amounts["labelled header lines removed"] == 34 * 3
    works = dict(found)
    assert works["L_Frank_Baum_The_Wonderful_Wizard_of_Oz"].startswith("Dorothy lived in the midst")
    assert works["Rudyard_Kipling_The_Jungle_Book"].startswith("Now Rann the Kite brings home")
    picture_books, report = read(
        realdata / "stories" / "african_storybook" / "raw_md", max_chars=100_000
    )
    assert not any("License" in text for _, text in picture_books)
    assert report.num_kept == 153 and not report.skipped


def test_words_are_counted_as_split_counts_them(realdata):
    found, _ = read(realdata / "russian", max_chars=5_000_000)
    dictionary = byte_dictionary()
    for _, text in found[:6]:
        text = text[:20_000]
        assert count(dictionary, as_pieces(text), cuts=range(7, 20_000, 1024)) == len(text.split())


def test_the_command_on_all_works_of_one_author(realdata, tmp_path):
    done = fairtale(
        "documents", realdata / "russian", "--output", tmp_path / "out", "--quiet",
        "--valid-works", "Chekhov__*",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["subsets"] == {"train": 21, "valid": 32}
