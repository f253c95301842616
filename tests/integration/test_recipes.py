"""The commands of the documentation, run as they stand there: those of the quick start and of each recipe
in a folder of their own, those of all other pages in one folder after each other."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import PROJECT, make_dataset, make_model
from tests.integration.conftest import BIN
from trove_steps.cli import main

pytestmark = pytest.mark.slow

DOCS = PROJECT / "docs"
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(yaml|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Complete commands in the running text.
INLINE = re.compile(r"`(trove-steps [^`…]*--configfile my\.yaml)`")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# A file in backticks that a recipe promises: `results/…`, without {placeholders}.
PROMISE = re.compile(r"`(results/[\w./@-]+)`")
# So that snakemake in the documentation is the project's, as it is in the project's folder.
SNAKEMAKE = f'#!/bin/sh\nexec "{BIN}/snakemake" --snakefile "{PROJECT}/Snakefile" "$@"\n'


@dataclass
class Recipe:
    """A section of a page: the files that it has the reader write, and what it has them type."""

    title: str
    files: dict[str, str]
    commands: list[str]
    promised: list[str]


def read_recipes(page: Path) -> list[Recipe]:
    """Return the sections of a page that have commands."""
    recipes = []
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        files, commands = {}, []
        for language, text in BLOCK.findall(section):
            if language == "yaml":
                name = re.match(r"# (\S+\.yaml)\n", text)
                assert name, (
                    f"{page.name}: the first line of a yaml block must name its file:\n{text}"
                )
                files[name[1]] = text
            else:
                commands += [line for line in text.splitlines() if line and line[0] != "#"]
        if commands:
            promised = PROMISE.findall(FENCED.sub("", section))
            recipes.append(Recipe(section.partition("\n")[0], files, commands, promised))
    return recipes


RECIPES = [*read_recipes(DOCS / "README.md"), *read_recipes(DOCS / "recipes.md")]
OTHER_PAGES = [
    PROJECT / "README.md",
    *sorted(page for page in DOCS.glob("*.md") if page.name not in ("README.md", "recipes.md")),
]
NOT_RUN = {
    "make demo": "installs from a registry; test_demo runs the demo itself",
    "make test": "this is it",
    ". .venv/bin/activate": "the environment of the tests is active",
    "pip install": "would change the environment of the tests",
    "export TROVE_STEPS_TEST_": "belongs to the next one",
    "pytest -m cluster": "needs a cluster",
    "trove-steps reproduce": "figures of tiny data are not those that others published",
}


def read_commands(page: Path) -> list[str]:
    """Return the lines of all bash blocks of a page, then the complete commands in its text."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in BLOCK.findall(text) if language == "bash"]
    lines = [line for block in blocks for line in block.splitlines() if line and line[0] != "#"]
    inline = [
        command.replace("DATASET/MODEL", "scifact/minilm") for command in INLINE.findall(text)
    ]
    return list(dict.fromkeys(lines + inline))


def is_run(command: str) -> bool:
    """Tell whether a test can run a command."""
    return not command.startswith(tuple(NOT_RUN))


def test_all_recipes_are_found():
    assert [recipe.title for recipe in RECIPES] == [
        "Quick start",
        "Compare two checkpoints",
        "Mine negatives for training",
        "A corpus that changes daily",
        "Sweep checkpoints",
        "SLURM",
    ]
    assert all(recipe.files and recipe.promised for recipe in RECIPES if recipe.title != "SLURM")


def test_what_is_not_run_is_there():
    commands = [command for page in OTHER_PAGES for command in read_commands(page)]
    for beginning in NOT_RUN:
        assert any(command.startswith(beginning) for command in commands), beginning
    programs = {command.split()[0] for command in commands if is_run(command)}
    assert programs == {"snakemake", "trove-steps"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the data, the models and the programs that the recipes name."""
    data = make_dataset(tmp_path / "data" / "cranfield")
    (data / "qrels").mkdir()
    for name in ("queries.jsonl", "qrels.tsv"):  # ids of queries are numbers, as in Cranfield
        text = (data / name).read_text()
        (data / name).write_text(re.sub(r'("_id": "|^)q(?=\d)', r"\1", text, flags=re.MULTILINE))
    (data / "qrels.tsv").rename(data / "qrels" / "test.tsv")
    documents = (data / "corpus.jsonl").read_text().splitlines(keepends=True)
    for path, some in (("corpus/2026-05-01", documents[:50]), ("inbox/2026-05-02", documents[50:])):
        (tmp_path / path).parent.mkdir()
        (tmp_path / f"{path}.jsonl").write_text("".join(some))

    for seed, name in enumerate(("step-1000", "step-2000")):
        make_model(tmp_path / "checkpoints" / name, seed)
    # A folder with the name of a model on the Hub is taken instead of it.
    add_pooling(make_model(tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2", positions=512))

    (tmp_path / "profiles").symlink_to(PROJECT / "profiles")
    program = tmp_path / "bin" / "snakemake"
    program.parent.mkdir()
    program.write_text(SNAKEMAKE)
    program.chmod(0o755)
    return tmp_path


def add_pooling(folder: Path) -> None:
    """Add the files in which sentence-transformers says how a model pools."""
    kind = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def run(command: str, folder: Path) -> str:
    """Run a line of the documentation in a folder; return what it printed. On a cluster, only plan it."""
    if "profiles/slurm" in command and not command.endswith(" -n"):
        command += " -n"
    path = os.pathsep.join([str(folder / "bin"), str(BIN), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "200"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=500,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    return done.stdout


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_does_what_it_says(recipe: Recipe, folder: Path):
    for name, text in recipe.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for command in recipe.commands:
        run(command, folder)
    missing = [path for path in recipe.promised if not (folder / path).exists()]
    assert not missing, missing


@pytest.mark.timeout(1800)
def test_the_commands_of_all_other_pages(folder: Path, monkeypatch):
    """In one folder with the configuration of the README; trove-steps in this process, which saves time."""
    monkeypatch.chdir(folder)
    (folder / "data" / "scifact").symlink_to(folder / "data" / "cranfield")
    (configuration,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    for name in ("my.yaml", "other.yaml"):
        (folder / name).write_text(configuration, encoding="utf-8")
    (folder / "kept.txt").write_text("")
    commands = [line for page in OTHER_PAGES for line in read_commands(page) if is_run(line)]
    commands = list(dict.fromkeys(command.partition(" #")[0].strip() for command in commands))
    for command in commands:
        if command.startswith("trove-steps "):
            assert main(shlex.split(command)[1:]) == 0, command
        else:
            run(command, folder)
    assert len(commands) >= 16
    assert (folder / "results" / "report.html").exists()
