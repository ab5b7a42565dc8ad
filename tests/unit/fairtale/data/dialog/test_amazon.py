"""What the reader of Amazon's questions says of lines that are no Python literals."""

from fairtale.data.dialog.amazon import parse_literal


def test_the_constants_of_json_are_named():
    """They are no code; what is code stays code, also beside them."""
    assert "True, False and None" in parse_literal('{"a": true, "b": [null, 1]}')[1]
    for text in ('{"a": other}', '{"a": true.b}', '{"a": null()}', '{"a": f(true)}'):
        assert "code instead of a literal" in parse_literal(text)[1]
