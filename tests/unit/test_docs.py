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
