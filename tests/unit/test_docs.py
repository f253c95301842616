"""What the documentation says is what the program does."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT
from trove_steps.config import load_config, load_schema


def test_the_config_reference_is_up_to_date():
    written = runpy.run_path(str(PROJECT / "docs" / "make_config.py"))["reference"]()
    assert (PROJECT / "docs" / "config.md").read_text(encoding="utf-8") == written


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


def test_every_page_is_in_the_index():
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (PROJECT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def test_options_that_the_migration_page_names_exist():
    page = (PROJECT / "docs" / "migrating.md").read_text(encoding="utf-8")
    schema = load_schema()
    sections = {name: schema["$defs"][name]["properties"] for name in ("evaluation", "mining")}
    named = re.findall(r"`(evaluation|mining)\.(\w+)", page)
    assert len(named) > 10
    for section, option in named:
        assert option in sections[section], f"{section}.{option}"
    models = re.search(r"Options of a model have Trove's names: (.*?)\n\n", page, re.DOTALL)[1]
    for option in re.findall(r"`(\w+)`", models):
        assert option in schema["$defs"]["model"]["properties"], option
