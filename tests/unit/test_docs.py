"""What the documentation says is what the program does."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT
from trove_steps.config import load_config


def test_the_config_reference_is_up_to_date():
    written = runpy.run_path(str(PROJECT / "docs" / "make_config.py"))["reference"]()
    assert (PROJECT / "docs" / "config.md").read_text(encoding="utf-8") == written


def test_every_option_has_a_meaning():
    text = (PROJECT / "docs" / "config.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "config").rglob("*.yaml")), ids=lambda path: path.name
)
def test_example_configurations_are_valid(path: Path):
    config = load_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert config["datasets"]


def test_the_readme_configuration_is_valid():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert set(load_config(yaml.safe_load(block))) >= {"evaluation", "mining"}
    assert len(block.splitlines()) <= 30


def test_links_of_the_documentation_lead_somewhere():
    for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_index_names_every_page():
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"^- \[.*?\]\(([^)#]+)\)", index, re.MULTILINE))
    pages = {page.name for page in (PROJECT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= linked


def test_the_quick_start_is_short():
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    start = index.partition("## Quick start\n")[2].partition("\n## ")[0]
    assert 0 < len(start.splitlines()) < 40


def test_the_migration_table_names_options_that_exist():
    """In the column of this project, `section.option` is one of a section, `some_option` one at the top."""
    schema = yaml.safe_load((PROJECT / "workflow/schemas/config.schema.yaml").read_text())
    options = {"": set(schema["properties"])}
    for section in ("encode", "cluster"):
        options[section] = set(schema["properties"][section]["properties"])
    for section, name in (("datasets", "dataset"), ("models", "model")):
        options[section] = set(schema["$defs"][name]["properties"])
    for section in ("evaluation", "mining"):
        options[section] = set(schema["$defs"][section]["properties"])
    for section in ("wandb", "comparison"):
        inner = schema["$defs"]["evaluation"]["properties"][section]["properties"]
        options[f"evaluation.{section}"] = set(inner)

    text = (PROJECT / "docs" / "migrating.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 100
    assert all(len(row) == 2 for row in rows), "a row has two columns"
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    sections = "|".join(name for name in options if name)
    dotted = re.compile(rf"`({sections})\.([a-z_0-9]+)(?:: [^`]+)?`")
    single = re.compile(r"`([a-z0-9]+(?:_[a-z0-9]+)+)(?:: [^`]+)?`")
    found = 0
    for here in [*prose, *(row[1] for row in rows)]:
        for section, option in dotted.findall(here):
            assert option in options[section], f"{section}.{option}"
            found += 1
    for here in (row[1] for row in rows):
        for option in single.findall(here):
            if not re.search(r"_\d+$", option):  # a metric such as ndcg_cut_10
                assert option in options[""], option
    assert found > 60
