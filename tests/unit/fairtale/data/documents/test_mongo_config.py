"""A config of a database: what is refused, and that its connection string is shown nowhere."""

import json
import logging
import pickle
import traceback

import pytest
import torch

from fairtale.data.documents.mongo_config import load_config
from fairtale.errors import UserError
from tests.mongo_helpers import ADDRESS, PASSWORD

GOOD = {"MONGO_CONNECTION_STRING": ADDRESS, "MONGO_CONNECTION_DB": "corpus", "COLLECTIONS": ["a"]}


def written(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_config(tmp_path):
    config = load_config(written(tmp_path, json.dumps({**GOOD, "COLLECTIONS": ["b", "a"]})))
    assert config.connection_string.reveal() == ADDRESS
    assert (config.database, config.collections) == ("corpus", ("b", "a"))
    one = load_config(written(tmp_path, json.dumps({**GOOD, "COLLECTIONS": "b"})))
    assert one.collections == ("b",)


def changed(**values):
    return json.dumps({k: v for k, v in {**GOOD, **values}.items() if v is not None})


BAD = {
    "{,": "not JSON (line 1",
    f'{{"MONGO_CONNECTION_STRING": "{ADDRESS}",,}}': "not JSON (line 1",
    b"\xff{}": "not JSON (not UTF-8",
    "[1]": "not a JSON object",
    "{}": "lacks MONGO_CONNECTION_STRING, MONGO_CONNECTION_DB, COLLECTIONS; give exactly",
    changed(COLLECTIONS=None): "lacks COLLECTIONS",
    changed(PASSWORD=PASSWORD): "has 1 unknown keys",
    changed(MONGO_CONNECTION_STRING=5): "must be a text that begins with mongodb://",
    changed(MONGO_CONNECTION_STRING=ADDRESS[3:]): "must be a text that begins with mongodb://",
    changed(MONGO_CONNECTION_DB="a/b"): "MONGO_CONNECTION_DB must be the name of a database",
    changed(COLLECTIONS=[]): "COLLECTIONS must be a list of names",
    changed(COLLECTIONS={"a": 1}): "COLLECTIONS must be a list of names",
    changed(COLLECTIONS=["a", ""]): "COLLECTIONS has an entry that is no name",
    changed(COLLECTIONS=["meta_info"]): "meta_info holds no documents",
    changed(COLLECTIONS=["a", "b", "a"]): "COLLECTIONS names a twice",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_configs_are_refused_without_their_values(tmp_path, text):
    with pytest.raises(UserError) as caught:
        load_config(written(tmp_path, text))
    assert BAD[text] in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
    for value in (PASSWORD, ADDRESS, "anna", "db.example"):
        assert value not in shown


def test_a_missing_config(tmp_path):
    with pytest.raises(UserError, match="nothing.json: no such config of a MongoDB database"):
        load_config(str(tmp_path / "nothing.json"))


def test_the_connection_string_is_shown_and_stored_nowhere(tmp_path, caplog):
    config = load_config(written(tmp_path, json.dumps(GOOD)))
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").info("%s %r", config, config.connection_string)
    for text in (repr(config), str(config), f"{vars(config)}", caplog.text):
        assert PASSWORD not in text and "db.example" not in text and "***" in text
    for store in (pickle.dumps, lambda value: torch.save({"cfg": value}, tmp_path / "c.pt")):
        with pytest.raises(TypeError, match="not stored"):
            store(config)
