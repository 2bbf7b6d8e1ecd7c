"""From ``module:Class`` to the class of an agent."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback

from .agent import Agent


def load_agent(path: str | None) -> type[Agent]:
    """Return the class that `path` names, :class:`Agent` for None.

    Raises ``ValueError`` that says what is wrong with the path. Modules in the current directory are found. What a
    module prints while it is imported goes to standard error: standard output belongs to the report.
    """
    if path is None:
        return Agent
    module_name, colon, class_name = path.partition(":")
    if not colon or not module_name or not class_name:
        raise ValueError(f"an agent is named as module:Class, e.g. my_agents:Momentum, was {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ValueError(
                f"there is no module {module_name!r}, neither installed nor in {os.getcwd()} (from --agent {path})"
            ) from error
        raise ValueError(f"module {module_name!r} needs {error.name!r}, which is not installed") from error
    except SystemExit as error:
        raise ValueError(
            f"module {module_name!r} leaves the program while it is imported (SystemExit: {error.code}); "
            "put what only a script does behind if __name__ == '__main__'"
        ) from error
    except Exception as error:
        raise ValueError(f"module {module_name!r} cannot be imported:\n{traceback.format_exc()}") from error
    found = getattr(module, class_name, None)
    if found is None:
        raise ValueError(f"module {module_name!r} ({module.__file__}) has no {class_name!r}")
    if not isinstance(found, type) or not issubclass(found, Agent):
        raise ValueError(f"{path} must be a subclass of ntmem.replay.Agent, was {found!r}")
    return found
