"""Code of the user that a configuration names as "module:thing": where its source is, and its import.

The planner mostly reads the source; the step that uses it imports it. Only the module's own file counts for
keys, not what it imports.
"""

import ast
import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path

from trove_steps.errors import TroveStepsError

# What ends a process ends it here without a word, and a command with status 0.
FAILURES = (Exception, SystemExit)
PACKAGE = str(Path(__file__).parent)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")


def is_name(value) -> bool:
    """Whether a value of the configuration is of the form module:thing."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def source_file(name: str, where: str = "") -> Path:
    """Return the source file of "module:thing", found from the working directory, then sys.path.

    `where` is the key of the configuration that messages name.
    """
    return _located(name, where)[1]


def _located(name: str, where: str) -> tuple[str, Path]:
    """Return (folder from which the module is imported, its file)."""
    module = name.split(":")[0]
    relative = module.replace(".", "/")
    for directory in (os.getcwd(), *sys.path):
        for path in (Path(directory, f"{relative}.py"), Path(directory, relative, "__init__.py")):
            if path.is_file():
                return directory, path
    raise TroveStepsError(
        f"{_place(where)}no module {module} for '{name}': looked for {relative}.py in {os.getcwd()} and on "
        "PYTHONPATH"
    )


def source_digest(name: str, where: str = "") -> str:
    """Return the SHA-256 of the source file of "module:thing"."""
    return hashlib.sha256(source_file(name, where).read_bytes()).hexdigest()


def function_parameters(name: str, where: str) -> set[str]:
    """Return the parameters of "module:function", read from its source without importing it."""
    path = source_file(name, where)
    wanted = name.split(":")[1]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise TroveStepsError(f"{where}: {path} is not valid Python: {error}") from None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == wanted:
            arguments = node.args
            return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    raise TroveStepsError(f"{where}: {path} has no line 'def {wanted}(…)' at its top level")


def load(name: str, where: str = "", digest: str | None = None):
    """Import "module:thing" and return the thing; `digest` is the SHA-256 that its file must have."""
    module, thing = name.split(":", 1)
    folder, path = _located(name, where)
    found = source_digest(name, where)
    if digest is not None and found != digest:
        raise TroveStepsError(
            f"{_place(where)}{path} changed since this run was planned: start the workflow again, so that "
            "its results are named by what the file holds now"
        )
    if folder not in sys.path:
        sys.path.insert(0, folder)  # for what the module imports from beside it
    try:
        imported = _module(module, path.resolve(), found)
    except FAILURES as error:  # the user's module may raise anything
        raise TroveStepsError(
            f"{_place(where)}{path} can't be imported for '{name}' ({reason(error)}): correct it"
        ) from error
    if not hasattr(imported, thing):
        raise TroveStepsError(f"{_place(where)}{path} has no {thing}, which '{name}' names")
    return getattr(imported, thing)


@cache
def _module(name: str, path: Path, digest: str):
    """Import a file; once for each of its contents."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    known = sys.modules.get(name)
    if known is None or getattr(known, "__file__", None) == str(
        path
    ):  # else it would hide that one
        sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(name) is module:
            del sys.modules[name]
        raise
    return module


def load_function(name: str, digest: str | None = None) -> Callable:
    """Return the function that module:function names; `digest` is the SHA-256 its file must have."""
    found = load(name, digest=digest)
    if not callable(found):
        raise TroveStepsError(
            f"'{name}' is no function: {source_file(name)} has something else there"
        )
    return found


def called(name: str, function: Callable, *arguments):
    """Call a user's function; whatever it raises becomes a TroveStepsError that names it."""
    try:
        return function(*arguments)
    except TroveStepsError:
        raise
    except FAILURES as error:
        raise TroveStepsError(
            f"{name} failed{_place_of(error)} ({reason(error)}): correct the function"
        ) from error


def reason(error: BaseException) -> str:
    """Return the kind of an error and its message, in one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _place_of(error: BaseException) -> str:
    """Return the last place of a traceback that is in the user's own file, "" if none is."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame.filename.startswith(PACKAGE)]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _place(where: str) -> str:
    return f"{where}: " if where else ""
