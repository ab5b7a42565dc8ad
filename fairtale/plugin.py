"""Load the plug-in: register every task, model, criterion and schedule of ``user_dir``."""

from argparse import Namespace
from pathlib import Path

from .errors import UserError


def user_dir() -> Path:
    """Return the folder to pass to ``--user-dir``; it lies beside this package.

    Raises:
        UserError: the folder is missing, so the installation is incomplete.
    """
    folder = Path(__file__).resolve().parent.parent / "user_dir"
    if not (folder / "__init__.py").is_file():
        raise UserError(
            f"{folder} is missing, so the installation of fairtale is incomplete; "
            "reinstall it, or use a complete checkout"
        )
    return folder


def register() -> None:
    """Register the plug-in with fairseq, exactly as ``--user-dir`` does.

    A second call does nothing. Importing fairseq takes several seconds, so verbs that only
    handle text do not call this function.
    """
    from fairseq.utils import import_user_module

    import_user_module(Namespace(user_dir=str(user_dir())))
