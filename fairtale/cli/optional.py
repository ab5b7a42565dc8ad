"""Optional dependencies, imported when a verb needs them."""

import importlib
from types import ModuleType

from ..errors import UserError


def require(module: str, extra: str | None, package: str | None = None) -> ModuleType:
    """Import a module, or name the command that installs it.

    Args:
        module: its name.
        extra: of fairtale, which brings the module; None if none does.
        package: which brings the module, if it has another name and there is no extra.

    Raises:
        UserError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there; something inside it is broken
        install = f"fairtale[{extra}]" if extra else package or module
        raise UserError(f"{module} is not installed; run: pip install '{install}'") from None


def require_transformers() -> ModuleType:
    """Import transformers, for models of text only.

    Raises:
        UserError: it is not installed.
    """
    from ..compat.torchaudio import hide_torchaudio

    hide_torchaudio()
    return require("transformers", extra="hf")
