"""WMT's SGML: reading, and errors in a file."""

import pytest

from fairtale.data.parallel.sgm import read_sgm, read_sgm_pair
from fairtale.errors import UserError

SOURCE = """<srcset setid="newstest2016" srclang="any">
<doc sysid="ref" docid="a.1" genre="news" origlang="en">
<hl>
<seg id="1">A head &amp; line</seg>
</hl>
<p>
<seg id="2"> Two
lines </seg>
</p>
</doc>
<doc docid="b" genre="news">
<p><seg id="1">AT&T is 3 &lt; 5</seg></p>
</doc>
</srcset>
"""
REFERENCE = """<!DOCTYPE refset SYSTEM "ftp://jaguar.ncsl.nist.gov/mt/resources/mteval-xml-v1.3.dtd">
<refset setid="newstest2016" srclang="any" trglang="ru">
<DOC docid=b genre="news">
<seg id=1>АТ</seg>
</DOC>
<DOC docid="a.1" genre="news">
<seg id="2">Две строки</seg>
<seg id="1">Заголовок</seg>
</DOC>
</refset>
"""


@pytest.fixture
def files(tmp_path):
    def write(source=SOURCE, reference=REFERENCE):
        for name, text in (("s.sgm", source), ("r.sgm", reference)):
            (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / "s.sgm"), str(tmp_path / "r.sgm")

    return write


def test_documents_and_segments(files):
    assert read_sgm(files()[0]) == {
        ("a.1", "1"): "A head & line",
        ("a.1", "2"): "Two lines",
        ("b", "1"): "AT&T is 3 < 5",
    }


def test_pairs_follow_the_source(files):
    assert read_sgm_pair(*files()) == [
        ("A head & line", "Заголовок"),
        ("Two lines", "Две строки"),
        ("AT&T is 3 < 5", "АТ"),
    ]


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        (
            SOURCE,
            REFERENCE.replace('<seg id="2">Две строки</seg>', ""),
            r"r.sgm: segment 2 of document a.1 is missing; \S+s.sgm has it: 'Two lines'",
        ),
        (
            SOURCE.replace('id="1">A head', 'id="7">A head').replace('id="2"', 'id="8"'),
            REFERENCE,
            r"r.sgm: segment 7 of document a.1 is missing \(and 1 more\)",
        ),
        (
            SOURCE.replace('docid="b"', 'docid="c"'),
            REFERENCE,
            r"r.sgm: segment 1 of document c is missing",
        ),
        (
            SOURCE,
            REFERENCE.replace("</refset>", '<doc docid="d"><seg id="1">x</seg></doc></refset>'),
            r"s.sgm: segment 1 of document d is missing; \S+r.sgm has it: 'x'",
        ),
        (SOURCE, REFERENCE.replace('id="2"', 'id="1"'), "document a.1 has two segments 1"),
        (SOURCE.replace(' id="2"', ""), REFERENCE, "s.sgm: a segment without id in document a.1"),
        (SOURCE.replace(' docid="b"', ""), REFERENCE, "a segment without docid .* 'AT&T is 3 < 5'"),
        (SOURCE.replace("&lt;", "<"), REFERENCE, r"s.sgm:12: not the SGML of a WMT set"),
        (SOURCE[:-12], REFERENCE, "not the SGML of a WMT set"),
        ("plain\ntext\n", REFERENCE, "s.sgm:1: not the SGML"),
        ("<srcset></srcset>", REFERENCE, "no <seg> inside a <doc>"),
    ],
)
def test_faults_are_named(files, source, reference, message):
    with pytest.raises(UserError, match=message) as error:
        read_sgm_pair(*files(source, reference))
    assert "\n" not in str(error.value)


def test_sgml_of_other_tools(tmp_path):
    """Upper-case attributes, values without quotes, spaces around them, names of entities."""
    path = tmp_path / "x.sgm"
    path.write_text(
        '<SRCSET SETID="x" SRCLANG=en>\n<DOC DOCID="d" GENRE = news>\n<SEG ID=1>Caf&eacute; &bar; '
        '&amp;&nbsp;tea</seg>\n< seg id = " 2 " >Two< /seg >\n</Doc></SRCSET>\n',
        encoding="utf-8",
    )
    assert read_sgm(path) == {("d", "1"): "Café &bar; & tea", ("d", "2"): "Two"}
    path.write_text('<!DOCTYPE a [<!ENTITY b "c">]><srcset><doc docid="d"></doc></srcset>')
    with pytest.raises(UserError, match="declares an entity"):
        read_sgm(path)
