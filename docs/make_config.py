"""Write docs/config.md from the schema of the configuration: python docs/make_config.py"""

from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
TITLE = """# Configuration

Written from the schema by `docs/make_config.py`. Paths are relative to the working directory or
absolute. An unknown key is an error.
"""
SECTIONS = {
    "Top level": ["properties"],
    "datasets: {name}": ["$defs", "dataset", "properties"],
    "models: {name}": ["$defs", "model", "properties"],
    "pairs: one of the list": ["properties", "pairs", "items", "properties"],
    "evaluation": ["$defs", "evaluation", "properties"],
    "evaluation: comparison": ["$defs", "evaluation", "properties", "comparison", "properties"],
    "evaluation: wandb": ["$defs", "evaluation", "properties", "wandb", "properties"],
    "mining": ["$defs", "mining", "properties"],
    "encode": ["properties", "encode", "properties"],
    "cluster": ["properties", "cluster", "properties"],
}


def reference() -> str:
    """Return the text of docs/config.md."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    text = TITLE
    for heading, path in SECTIONS.items():
        options = schema
        for part in path:
            options = options[part]
        text += f"\n## {heading}\n\n| option | value | default | meaning |\n|---|---|---|---|\n"
        for name, option in options.items():
            text += _row(name, option, schema)
    return text


def _row(name: str, option: dict, schema: dict) -> str:
    if "$ref" in option:
        option = {**schema["$defs"][option["$ref"].rsplit("/", 1)[1]], **option}
    default = f"`{_shown(option['default'])}`" if "default" in option else ""
    meaning = option.get("description", "").replace("|", "\\|")
    return f"| `{name}` | {_kind(option)} | {default} | {meaning} |\n"


def _kind(option: dict) -> str:
    if "enum" in option:
        return ", ".join(f"`{_shown(choice)}`" for choice in option["enum"] if choice is not None)
    if "anyOf" in option:
        return " or ".join(_kind(choice) for choice in option["anyOf"])
    kinds = option.get("type", "text")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    names = {"array": "list", "object": "section", "string": "text", "boolean": "true, false"}
    return " or ".join(names.get(kind, kind) for kind in kinds if kind != "null")


def _shown(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True).replace("\n...", "").strip()


if __name__ == "__main__":
    (ROOT / "docs" / "config.md").write_text(reference(), encoding="utf-8")
