"""Read Amazon's questions and answers: one Python dict literal a line, parsed without ``eval``.

Source: McAuley and Yang 2016, Wan and McAuley 2016 (jmcauley.ucsd.edu/data/amazon/qa).
"""

import ast
import warnings
from collections.abc import Iterator
from typing import Any

from ..corpus.records import ByteStream
from .records import DialogReport, RawDialog, read_text

NOT_A_LITERAL = "not a Python literal"
CODE = "code instead of a literal (it was not run)"
JSON_NAMES = "true, false or null, as in JSON, where Python literals have True, False and None"
NO_ANSWER = "no question or no answer in it"


def read_amazon(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read the dialogs of a file, one for each answer.

    A line is a dict with ``question`` and ``answer``, or with ``questions``. The latter is a list
    of dicts with ``questionText`` and with ``answers``, a list of dicts with ``answerText``. The
    product, ``asin``, is the group.

    Args:
        stream: a binary file.
        name: name of the file, for the report.
        report: counts damaged records.
    """
    for line, text in read_text(stream, name, report):
        text = (text or "").strip()
        if not text:
            continue
        place, size = f"{name}:{line}", len(text.encode("utf-8", "replace")) + 1
        value, fault = parse_literal(text)
        if fault:
            report.skip(fault, place, size)
            continue
        product = value.get("asin") if isinstance(value, dict) else None
        pairs = list(_pairs(value))
        if not pairs:
            report.skip(NO_ANSWER, place, size)
        for question, answer in pairs:
            group = product if isinstance(product, str) else question
            yield RawDialog([question, answer], group, place)


def parse_literal(text: str) -> tuple[Any, str | None]:
    """Return ``(value, None)`` for a Python literal, else ``(None, fault)``; execute nothing.

    ``ast.literal_eval`` builds a syntax tree, whose depth Python's parser limits, and accepts
    only constants and containers in it. The caller limits the length of the text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of a backslash in a text
            return ast.literal_eval(text), None
    except SyntaxError:
        return None, NOT_A_LITERAL
    except ValueError as error:
        # For code, the message names a syntax node; other causes are a null byte or a number
        # with too many digits.
        if "node" not in str(error):
            return None, NOT_A_LITERAL
        return None, JSON_NAMES if _has_json_names(text) else CODE
    except (MemoryError, RecursionError, TypeError):  # nested too deeply, or an unhashable key
        return None, NOT_A_LITERAL


def _has_json_names(text: str) -> bool:
    """Return whether a text is no literal only because of JSON's names of constants."""
    nodes = list(ast.walk(ast.parse(text, mode="eval")))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    runs = any(isinstance(node, ast.Call | ast.Attribute) for node in nodes)
    return bool(names) and names <= {"true", "false", "null"} and not runs


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    """Yield every question with its answer; either text may be empty."""
    if not isinstance(value, dict):
        return
    yield from _strings(value.get("question"), value.get("answer"))
    for question in _dicts(value.get("questions")):
        for answer in _dicts(question.get("answers")):
            yield from _strings(question.get("questionText"), answer.get("answerText"))


def _strings(question: Any, answer: Any) -> Iterator[tuple[str, str]]:
    if isinstance(question, str) and isinstance(answer, str):
        yield question, answer


def _dicts(values: Any) -> list[dict[Any, Any]]:
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []
