"""Start of the ``fairtale`` command.

Most verbs need neither torch nor fairseq, but importing anything of ``user_dir`` runs
its ``__init__``, which registers the plug-in with fairseq: six seconds. So the package
is put into ``sys.modules`` unexecuted first; a verb that needs the registries calls
:func:`register`. It is a module of its own because worker processes that are spawned
(macOS, Windows) import the main module before anything else and so start lightly too.
"""

import importlib.util
import sys

_PACKAGE = "user_dir"


def _prepare():
    if _PACKAGE in sys.modules:
        return None
    spec = importlib.util.find_spec(_PACKAGE)
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    return spec


_unexecuted = _prepare()


def register():
    """Run the package's ``__init__`` after all: tasks, models, criterions, cures."""
    global _unexecuted
    spec, _unexecuted = _unexecuted, None
    if spec is not None:
        spec.loader.exec_module(sys.modules[_PACKAGE])


def main():
    from user_dir.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.modules["fairtale"] = sys.modules["__main__"]  # for verbs that import it to register
    sys.exit(main())
