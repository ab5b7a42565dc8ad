"""Import optional dependencies."""

import importlib
from types import ModuleType

from ..errors import UserError


def require(module: str, extra: str | None, package: str | None = None) -> ModuleType:
    """Import and return a module.

    Args:
        module: name of the module.
        extra: extra of fairtale that installs the module; None if there is none.
        package: package that contains the module, if there is no extra and its name differs.

    Raises:
        UserError: the module is not installed; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is installed, but one of its own imports is missing
        install = f"fairtale[{extra}]" if extra else package or module
        raise UserError(f"{module} is not installed; run: pip install '{install}'") from None


def require_transformers() -> ModuleType:
    """Import and return transformers, without the audio models, which need torchaudio.

    Raises:
        UserError: transformers is not installed.
    """
    from ..compat.torchaudio import hide_torchaudio

    hide_torchaudio()
    return require("transformers", extra="hf")
