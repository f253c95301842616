"""Code of the user that a configuration names as "module:thing": where its source is, and its import.

The planner only reads the source; the step that uses it imports it. Only the module's own file counts
for keys, not what it imports.
"""

import ast
import hashlib
import importlib
import os
import sys
from pathlib import Path

from trove_steps.errors import TroveStepsError


def source_file(name: str, where: str) -> Path:
    """Return the source file of "module:thing", found from the working directory, then sys.path.

    `where` is the key of the configuration that messages name.
    """
    module = name.split(":")[0]
    relative = module.replace(".", "/")
    for directory in (os.getcwd(), *sys.path):
        for path in (Path(directory, f"{relative}.py"), Path(directory, relative, "__init__.py")):
            if path.is_file():
                return path
    raise TroveStepsError(
        f"{where}: no module {module} for '{name}': looked for {relative}.py in {os.getcwd()} and on "
        "PYTHONPATH"
    )


def source_digest(name: str, where: str) -> str:
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


def load(name: str, where: str):
    """Import "module:thing" and return the thing."""
    module, attribute = name.split(":", 1)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may raise anything
        raise TroveStepsError(
            f"{where} {name}: can't be imported: {type(error).__name__}: {error}"
        ) from error
