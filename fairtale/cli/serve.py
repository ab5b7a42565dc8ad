"""Serve checkpoints over HTTP: stories, dialogs and translations, in OpenAI's format.

Open the printed address in a browser to talk; GET /docs describes the routes for programs. Only
this machine can reach the service unless --host says otherwise. SIGTERM or Ctrl-C finishes what
runs and then ends; a second one ends at once.

A key, which every route but /health then asks for, comes from --api-key-file or from the
environment variable FAIRTALE_API_KEY.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import re
from typing import TYPE_CHECKING

from ..errors import UserError
from ..plugin import register
from .argument_types import positive_int
from .gpt2_export import size_in_bytes
from .optional import require

if TYPE_CHECKING:
    from ..serving.interface import Engine
    from ..serving.models import EngineOptions

KEY_VARIABLE = "FAIRTALE_API_KEY"
_KEY = re.compile(r"[!-~]{8,512}")  # printable ASCII without spaces
_ORIGIN = re.compile(r"\*|https?://[^/\s]+")
_LOG = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "checkpoint",
        nargs="+",
        help="checkpoint of story_lm, dialog_lm, wmt16_translation or translation; with --engine "
        "ctranslate2, a folder for CTranslate2",
    )
    _add_model_options(parser)
    _add_address_options(parser)
    _add_limits(parser)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument(
        "--served-model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="name of the model; give it once for each checkpoint (default: name of its file, or "
        "of its folder if the file is called checkpoint*.pt)",
    )
    models.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="folder with dictionaries and tokenizer, of the model NAME or of all (default: the "
        "data of the training)",
    )
    models.add_argument(
        "--lora-adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="folder with an adapter of the model NAME, or of all",
    )
    models.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    models.add_argument(
        "--engine",
        choices=("fairseq", "ctranslate2"),
        default="fairseq",
        help="what computes the texts (default: %(default)s)",
    )
    models.add_argument(
        "--cache-mib",
        type=positive_int,
        metavar="N",
        help="memory for the keys and values of running requests, of each model (default: for "
        "--max-running texts of full length, within the free memory)",
    )


def _add_address_options(parser: argparse.ArgumentParser) -> None:
    address = parser.add_argument_group("address and access")
    address.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    address.add_argument(
        "--port", type=_port, default=8000, help="port, 0 for a free one (default: %(default)s)"
    )
    address.add_argument(
        "--api-key-file", metavar="FILE", help="file with the key that clients must send"
    )
    address.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin of web pages that may call the service, such as https://example.org (CORS; "
        "default: none but the service's own page)",
    )
    address.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name under which a service on this machine without a key may be called, besides "
        "localhost; a proxy may send another one",
    )
    address.add_argument(
        "--log-requests", action="store_true", help="log prompts and texts (default: neither)"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    for name, text in (
        ("--max-running", "texts of a model that are made together"),
        ("--max-waiting", "requests of a model that wait; further ones get the status 429"),
        ("--max-waiting-tokens", "tokens of the prompts and texts that wait"),
    ):
        limits.add_argument(
            name, type=positive_int, metavar="N", help=f"{text} (default: the engine's)"
        )
    limits.add_argument(
        "--max-body",
        type=size_in_bytes,
        default=2**20,
        metavar="SIZE",
        help="length of a request, such as 500KB or 1MiB (default: 1MiB)",
    )
    limits.add_argument(
        "--max-connections",
        type=positive_int,
        default=512,
        metavar="N",
        help="open connections (default: %(default)s)",
    )
    limits.add_argument(
        "--request-timeout",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="time for a request from its arrival to its last token (default: %(default)g)",
    )
    limits.add_argument(
        "--grace",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="time for requests to be finished after SIGTERM (default: %(default)g)",
    )


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Load the models, then serve until a signal."""
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, extra="serve")
    from ..serving.app import create_app
    from ..serving.hosts import LOCAL_HOSTS
    from ..serving.server import ServerOptions, address_of, is_loopback, listen, serve
    from ..serving.service import AppOptions

    app_options = AppOptions(
        api_key=read_key(args.api_key_file),
        allow_origins=_origins(args.allow_origin),
        max_body=args.max_body,
        request_timeout=args.request_timeout,
        log_requests=args.log_requests,
    )
    options = ServerOptions(args.host, args.port, args.grace, args.max_connections)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("fairtale").setLevel(logging.INFO)
    # asyncio warns of what is written to clients that have just hung up
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    engines = load_engines(args)
    try:
        bound = listen(options.host, options.port)
        if app_options.api_key is None and is_loopback(bound):
            hosts = (*LOCAL_HOSTS, args.host, *args.allow_host)
            app_options = dataclasses.replace(app_options, allow_hosts=hosts)
        elif app_options.api_key is None:
            _LOG.warning(
                "warning: --host %s without a key: whoever reaches this machine can use the "
                "service; give --api-key-file",
                args.host,
            )
        address = address_of(bound)
        app = create_app(engines, app_options)
        serve(
            app,
            bound,
            options,
            lambda: print(f"Serving {', '.join(engines)} on {address}", flush=True),
        )
    finally:
        for engine in engines.values():
            engine.close(0.0)
    return 0


def load_engines(args: argparse.Namespace) -> dict[str, Engine]:
    """Return the engines of all checkpoints by name; none is left running after an error."""
    from ..serving.models import load_engine, served_names

    names = served_names(args.checkpoint, args.served_model_name)
    options = engine_options(args, names)
    register()  # must precede the first import of fairseq, which logs and warns without it
    engines: dict[str, Engine] = {}
    try:
        for name, path in zip(names, args.checkpoint):
            engines[name] = load_engine(path, options[name])
            _LOG.info("%s: %s, %s", name, engines[name].kind, engines[name].describe())
    except BaseException:
        for engine in engines.values():
            engine.close(0.0)
        raise
    return engines


def engine_options(args: argparse.Namespace, names: list[str]) -> dict[str, EngineOptions]:
    """Return the options of each model.

    Raises:
        UserError: an option is given twice for a model.
    """
    from ..serving.models import EngineOptions, values_by_name

    data = values_by_name("--data", args.data, names)
    adapters = values_by_name("--lora-adapter", args.lora_adapter, names)
    return {
        name: EngineOptions(
            data=data.get(name),
            lora_adapter=adapters.get(name),
            cpu=args.cpu,
            engine=args.engine,
            cache_mib=args.cache_mib,
            max_running=args.max_running,
            max_waiting=args.max_waiting,
            max_waiting_tokens=args.max_waiting_tokens,
        )
        for name in names
    }


def read_key(path: str | None) -> str | None:
    """Return the key from a file or from the environment, which then forgets it; None for none.

    Raises:
        UserError: both are given, or what they hold is no key.
    """
    held = os.environ.pop(KEY_VARIABLE, None)
    if path is None and held is None:
        return None
    if path is not None and held is not None:
        raise UserError(f"--api-key-file {path}: {KEY_VARIABLE} is set as well; give one of them")
    if path is None:
        source, text = KEY_VARIABLE, held or ""
    else:
        source = f"--api-key-file {path}"
        with open(path, "rb") as file:
            text = file.read(4096).decode("latin-1")
        if os.stat(path).st_mode & 0o077:
            _LOG.warning("warning: %s: others may read the file; run chmod 600 on it", source)
    if not _KEY.fullmatch(text.strip()):
        raise UserError(
            f"{source}: is no key, which has 8 to 512 printable ASCII characters without spaces; "
            "openssl rand -hex 32 makes one"
        )
    return text.strip()


def _origins(given: list[str]) -> tuple[str, ...]:
    for origin in given:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"--allow-origin {origin}: must be https://HOST or http://HOST, with :PORT if the "
                "pages have one and without a path, or * for all"
            )
    return tuple(given)
