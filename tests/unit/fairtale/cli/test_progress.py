"""Progress bars."""

import io

from fairtale.cli.progress import progress_bar


def test_a_log_file_gets_few_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar(1000, "line", "reading") as bar:
        for _ in range(1000):
            bar.update()
    text = stream.getvalue()
    assert "reading" in text and "1000/1000" in text
    assert text.count("\r") <= 3  # the beginning and the end
