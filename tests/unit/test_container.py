"""The Dockerfile and compose.yaml name stages, files, scripts, options and folders that exist.

No daemon is needed; that the images can be built is not tested.
"""

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from fairtale.cli.main import VERBS as VERBS_OF_FAIRTALE
from fairtale.cli.main import _find_verb

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
VERBS = {n: service for n, service in OURS.items() if service["command"].startswith("fairtale ")}
SCRIPTS = {name: service for name, service in OURS.items() if name not in VERBS}
FOLDER = re.search(r"^WORKDIR (\S+)", DOCKERFILE, re.MULTILINE)[1]
STAGES = re.findall(r"^FROM (\S+) AS (\S+)", DOCKERFILE, re.MULTILINE)


def copied():
    """The sources of all COPY instructions."""
    for line in re.findall(r"^COPY (.+)", DOCKERFILE, re.MULTILINE):
        yield from line.split()[:-1]


def test_the_stages_share_a_base():
    assert [(base, name) for base, name in STAGES if base == "base"] == [
        ("base", "cuda"),
        ("base", "cpu"),
    ]
    assert STAGES[-1][1] == "cpu"  # the one that is built by default


def test_what_is_copied_exists_and_is_not_ignored():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines  # nothing else reaches the image, such as a connection string
    sources = [source.rstrip("/") for source in copied()]
    assert all((ROOT / source).exists() for source in sources)
    assert sorted(sources) == sorted(kept)
    for needed in ("setup.py", "constraints.txt", "fairtale", "user_dir", "scripts", "tools"):
        assert needed in sources


def test_both_stages_are_set_up_alike():
    setup = re.findall(r"^RUN FAIRTALE_TORCH=(\S+) EXTRAS=(\S+) bash (\S+)", DOCKERFILE, re.M)
    assert [(torch, script) for torch, _, script in setup] == [
        ("cuda", "tools/setup_env.sh"),
        ("cpu", "tools/setup_env.sh"),
    ]
    assert setup[0][1] == setup[1][1]
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    extras = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS"
    )
    assert set(setup[0][1].split(",")) <= set(extras)
    head = (ROOT / "tools/setup_env.sh").read_text(encoding="utf-8")[:2000]
    assert "FAIRTALE_TORCH=cpu|cuda" in head and "EXTRAS=" in head and "VENV=.venv" in head
    assert f"PATH={FOLDER}/.venv/bin:" in DOCKERFILE


def test_the_services_are_built_from_the_stages():
    assert len(SCRIPTS) == 6 and list(VERBS) == ["import"]
    for name, service in OURS.items():
        target = service["build"]["target"]
        assert target in [stage for _, stage in STAGES]
        assert service["image"] == f"fairtale:{target}"
        assert ("deploy" in service) == (target == "cuda"), name
        assert set(service.get("depends_on", ())) <= set(SERVICES)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_command_runs_a_script_with_options_that_it_has(name):
    shell, script, *words = shlex.split(OURS[name]["command"])
    assert shell == "bash"
    text = (ROOT / script).read_text(encoding="utf-8")
    known = re.findall(r'^options "([^"]*)"', text, re.MULTILINE)
    known = known[0].split() if known else ["source", "data-bin", "tokenizer"]  # a prepare verb
    for word in words:
        if word.startswith("--") and word != "--cpu":
            assert word[2:] in known
    for variable in OURS[name].get("environment", ()):
        assert f"{variable}=" in text


@pytest.mark.parametrize("name", sorted(VERBS))
def test_a_command_is_a_verb_with_its_options(name):
    words = shlex.split(VERBS[name]["command"])[1:]
    verb, rest = _find_verb(words)
    module = importlib.import_module(VERBS_OF_FAIRTALE[verb][0], "fairtale.cli")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    places = {volume.split(":")[1] for volume in VERBS[name]["volumes"]}
    for path in (*args.source, args.config):
        assert f"{FOLDER}/{path.split('/')[0]}" in places


def test_the_folders_of_the_scripts_are_mounted():
    used = set()
    for service in SCRIPTS.values():
        text = (ROOT / shlex.split(service["command"])[1]).read_text(encoding="utf-8")
        used |= set(re.findall(r"\$ROOT/([a-z-]+)/", text)) - {"scripts"}
        places = {volume.split(":")[1] for volume in service["volumes"]}
        words = [word.split("/")[0] for word in shlex.split(service["command"])[2:]]
        assert {f"{FOLDER}/{w}" for w in words if w == "texts"} <= places
        assert {f"{FOLDER}/{folder}" for folder in used} <= places
    assert used == {"data-bin", "runs", "outputs"}


def test_no_password_is_written_down():
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    mongo = SERVICES["mongo"]["environment"]
    assert mongo["MONGO_INITDB_ROOT_PASSWORD"].startswith("${MONGO_PASSWORD:?")
    assert "mongodb://" not in text + DOCKERFILE
