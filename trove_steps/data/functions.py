"""Functions of the user's own, named in the configuration as module:function."""

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from trove_steps.errors import TroveStepsError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")


def is_function_name(value) -> bool:
    """Whether a value of the configuration names a function, as module:function."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def source_of(name: str) -> Path:
    """Return the file that holds module:function, found from the working directory, then sys.path."""
    module = name.partition(":")[0]
    relative = module.replace(".", "/")
    for directory in (os.getcwd(), *sys.path):
        for path in (Path(directory, f"{relative}.py"), Path(directory, relative, "__init__.py")):
            if path.is_file():
                return path
    raise TroveStepsError(
        f"no module {module} for '{name}': looked for {relative}.py in {os.getcwd()} and on PYTHONPATH"
    )


def source_digest(name: str) -> str:
    """Return the SHA-256 (hex) of the file that holds module:function."""
    return hashlib.sha256(source_of(name).read_bytes()).hexdigest()


@cache
def _module(path: Path, name: str):
    # Under a name of its own, so that it shadows no other module; its folder stays importable.
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


def load_function(name: str, digest: str | None = None) -> Callable:
    """Return the function that module:function names; `digest` is the SHA-256 its file must have."""
    path = source_of(name)
    if digest is not None and source_digest(name) != digest:
        raise TroveStepsError(
            f"{path} changed since this run was planned: start the workflow again, so that its results "
            "are named by what the file holds now"
        )
    module, _, function = name.partition(":")
    try:
        found = getattr(_module(path.resolve(), module), function, None)
    except Exception as error:
        raise TroveStepsError(
            f"{path} can't be imported for '{name}' ({type(error).__name__}: {error}): correct it"
        ) from error
    if not callable(found):
        raise TroveStepsError(f"{path} has no function {function}, which '{name}' names")
    return found


def called(name: str, function: Callable, *arguments):
    """Call a user's function; whatever it raises becomes a TroveStepsError that names it."""
    try:
        return function(*arguments)
    except TroveStepsError:
        raise
    except Exception as error:
        trace = error.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        raise TroveStepsError(
            f"{name} failed at {place} ({type(error).__name__}: {error}): correct the function"
        ) from error
