"""Remove log lines and warnings that are of no use to users of fairseq."""

import logging
import os
import sys
import warnings


def cure_import_logging() -> None:
    """Restore logging at INFO to stdout, because importing fairseq sets DEBUG and stderr.

    ``wav2vec2_classification.py`` calls ``basicConfig(level=DEBUG)`` when it is imported, before
    most commands set up their own logging. basicConfig does nothing once a handler exists, so
    apply the level that ``LOGLEVEL`` requests here. Remove this work-around once that call is gone.

    fairseq's tasks also log four lines for each prompt of ``fairseq-interactive``; these lines are
    shown only with ``LOGLEVEL=DEBUG``.
    """
    if os.environ.get("LOGLEVEL", "").upper() != "DEBUG":
        logging.getLogger("fairseq.tasks.fairseq_task").setLevel(logging.WARNING)
    root = logging.getLogger()
    handler = root.handlers[0] if len(root.handlers) == 1 else None
    if root.level != logging.DEBUG or not isinstance(handler, logging.StreamHandler):
        return
    if handler.stream is not sys.stderr:
        return  # the program has set up logging itself
    root.setLevel(os.environ.get("LOGLEVEL", "INFO").upper())
    form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S"))
    handler.setStream(sys.stdout)


def cure_known_warnings() -> None:
    """Hide warnings about fairseq's own code, which its users cannot fix.

    Remove each filter once fairseq uses the newer interface of the library in question.
    """
    for text in (
        r"[\s\S]*version_base parameter is not specified",
        r"'pin_memory' argument is set as true but no accelerator",
        r"`torch.cuda.amp.autocast\(args...\)` is deprecated",
        r"[\s\S]*weight_norm`? is deprecated",
        r"hydra.experimental.\w+\(\) is no longer experimental",
        r"[\s\S]*In 'config': Usage of deprecated keyword in package header",
        r"[\s\S]*'config' is validated against ConfigStore schema",
        r"[\s\S]*The strict flag in the compose API is deprecated",
    ):
        warnings.filterwarnings("ignore", message=text)
