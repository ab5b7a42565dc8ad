"""Read dialogs from records: lists of turns, messages with roles, prompts with responses."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..corpus.json_values import has_bad_bytes
from ..corpus.record_files import Record, RecordFile
from ..corpus.report import INVALID_UTF8
from .polyai import read_polyai_record
from .records import DialogReport, RawDialog

NO_TURNS = "no list of turns"
NO_PAIR = "no text q or no text a"
NO_REPLY = "no message of an assistant after another one"

# Fields that may hold a list of turns or messages.
_LISTS = (
    "turns", "messages", "conversations", "conversation", "dialog", "dialogue", "utterances",
    "chat", "dialogs", "log", "thread", "items",
)  # fmt: skip
# Fields of a message.
_ROLES = ("role", "from", "speaker", "sender", "author", "user", "name", "agent", "participant")
_TEXTS = ("content", "value", "text", "utterance", "message", "body")
_ASSISTANTS = frozenset(
    "assistant gpt bot chatbot model agent chatgpt ai response bard claude wizard".split()
)
_SYSTEM = "assistant"  # the role of a system that answers
_INSTRUCTIONS = frozenset(
    ("system", "developer", "tool", "function", "tool_calls", "observation", "function_call")
)
# Fields of a query and of its response.
PAIRS = (
    ("q", "a"),
    ("question", "answer"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("query", "reply"),
    ("query", "answer"),
    ("input", "output"),
    ("input", "response"),
    ("message", "response"),
    ("message", "reply"),
    ("comment", "reply"),
    ("post", "response"),
    ("user", "assistant"),
    ("user", "bot"),
    ("human", "assistant"),
    ("human", "bot"),
    ("utterance", "response"),
    ("input_text", "target_text"),
    ("question", "response"),
    ("questions", "answers"),
    ("prompts", "responses"),
    ("context", "response"),
)
# With an instruction, a text that the instruction speaks of.
_ATTACHED = ("input", "context")
# Turns before the query that a response of a chat is read with.
_MAX_TURNS_BEFORE = 100


class Shape(NamedTuple):
    """Where the dialogs are in the records of a file."""

    format: str  # conversations, messages, polyai, pairs
    fields: tuple[str, ...]  # the list; or the query, the response and perhaps an attached text

    @property
    def reason(self) -> str:
        """Which fields decided, for the report."""
        return f"fields {', '.join(self.fields[:2])}" if self.fields else "its fields"


def find_shape(file: RecordFile) -> Shape | None:
    """Return where the dialogs are in the records of a file, by its first ones, or None."""
    names = {name.casefold(): name for name in reversed(file.fields)}
    for key in _LISTS:
        name = names.get(key)
        lists = [_kind_of_list(sample.get(name)) for sample in file.samples] if name else []
        kinds = [kind for kind in lists if kind is not None]
        if name and kinds:
            return Shape(max(set(kinds), key=kinds.count), (name,))
    is_table = file.dialect is not None
    if not is_table and {"context", "response"} <= set(file.fields) and "instruction" not in names:
        return Shape("polyai", ("context", "response"))
    for pair in PAIRS:
        if all(name in names and _is_text(file.samples, names[name]) for name in pair):
            attached = [names[x] for x in _ATTACHED if x in names and x not in pair]
            if pair[0] != "instruction":
                attached = []
            return Shape("pairs", (names[pair[0]], names[pair[1]], *attached[:1]))
    return None


def _is_text(samples: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [sample[name] for sample in samples if sample.get(name) is not None]
    return not values or any(isinstance(value, str) for value in values)


def _kind_of_list(value: Any) -> str | None:
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(turn, str) for turn in value):
        return "conversations"
    if all(isinstance(turn, dict) for turn in value) and _message_keys(value) is not None:
        return "messages"
    return None


def _message_keys(messages: Iterable[dict[str, Any]]) -> tuple[str, str] | None:
    """Return the names of the fields with the role and the text of messages, or None."""
    shared: set[str] | None = None
    for message in messages:
        shared = set(message) if shared is None else shared & set(message)
    role = next((key for key in _ROLES if key in (shared or ())), None)
    text = next((key for key in _TEXTS if key in (shared or ()) and key != role), None)
    return (role, text) if role and text else None


def read_shape(
    shape: Shape, records: Iterable[Record], report: DialogReport
) -> Iterator[RawDialog]:
    """Yield the dialogs of records.

    Args:
        shape: where they are.
        records: the records.
        report: counts the records that hold none.
    """
    for record in records:
        if shape.format == "polyai":
            yield from read_polyai_record(dict(record.fields), record.place, report)
            continue
        found = list(_dialogs(shape, record))
        if not found:
            fault = {"pairs": NO_PAIR, "messages": NO_REPLY}.get(shape.format, NO_TURNS)
            report.skip(fault, record.place, record.num_bytes, record.num_lines)
        elif any(has_bad_bytes(turn) for dialog in found for turn in dialog.turns):
            report.skip(INVALID_UTF8, record.place, record.num_bytes, record.num_lines)
        else:
            yield from found


def _dialogs(shape: Shape, record: Record) -> Iterator[RawDialog]:
    if shape.format == "pairs":
        yield from _pair(shape, record)
        return
    turns = record.fields.get(shape.fields[0]) if shape.fields else None
    if not isinstance(turns, list) or not turns:
        return
    group = next((record.fields[key] for key in ("id", "conversation_id", "dialogue_id")
                  if record.fields.get(key) is not None), None)  # fmt: skip
    if all(isinstance(turn, str) for turn in turns):
        yield RawDialog(turns, turns[0] if group is None else str(group), record.place, True)
    elif all(isinstance(turn, dict) for turn in turns):
        yield from _messages(turns, group, record.place)


def _pair(shape: Shape, record: Record) -> Iterator[RawDialog]:
    query, response, *attached = (record.fields.get(name) for name in shape.fields)
    if not (isinstance(query, str) and isinstance(response, str)):
        for names in PAIRS[:2]:  # a file may mix q with question
            query, response = (record.fields.get(name) for name in names)
            if isinstance(query, str) and isinstance(response, str):
                break
        else:
            return
    if attached and isinstance(attached[0], str) and attached[0].strip():
        query = f"{query} {attached[0]}"
    yield RawDialog([query, response], query, record.place)


def _messages(messages: list[dict[str, Any]], group: Any, place: str) -> Iterator[RawDialog]:
    """Yield a dialog for each response of an assistant; without assistants, for each turn.

    Messages of one role behind each other are one turn. Instructions of the system and results of
    tools are no turns.
    """
    keys = _message_keys(messages)
    if keys is None:
        return
    roles, turns = list[str](), list[str]()
    names = {str(message[keys[0]]).casefold() for message in messages}
    # In MultiWOZ and its like, the system is who answers.
    is_partner = "system" in names and not names & _ASSISTANTS
    for message in messages:
        role, text = str(message[keys[0]]).casefold(), _text_of(message[keys[1]])
        role = _SYSTEM if is_partner and role == "system" else role
        if role in _INSTRUCTIONS or not text.strip():
            continue
        if roles and roles[-1] == role:
            turns[-1] += f" {text}"
        else:
            roles.append(role)
            turns.append(text)
    yield from by_roles(roles, turns, None if group is None else str(group), place)


def by_roles(
    roles: list[str], turns: list[str], group: str | None, place: str
) -> Iterator[RawDialog]:
    """Yield the dialogs of turns whose speakers are known.

    Args:
        roles: the speaker of each turn, in lower case. If one is known as an assistant, only its
            turns are responses; else every turn answers those before it.
        turns: the turns, oldest first.
        group: the group; None: the first turn.
        place: ``file:line``.
    """
    if len(turns) < 2:
        return
    group = turns[0] if group is None else group
    if not _ASSISTANTS & set(roles):
        yield RawDialog(turns, group, place, True)
        return
    for end, role in enumerate(roles):
        if role in _ASSISTANTS and end:
            window = turns[max(0, end - _MAX_TURNS_BEFORE) : end + 1]
            yield RawDialog(window, group, f"{place} (turn {end + 1})")


def _text_of(content: Any) -> str:
    """Return the text of a message, whose content may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return " ".join(text for text in texts if isinstance(text, str))
