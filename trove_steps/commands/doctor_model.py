"""`trove-steps doctor model`: load a model and show how it encodes."""

import argparse
import contextlib
import json
import re
import time
from pathlib import Path

from trove_steps.commands.planning import add_plan_options, configuration, own_code_aside

TEXTS = (
    "The wing of an aircraft produces lift.",
    "What makes an airplane fly?",
    "Simmer the onions until they are soft.",
)
SPEED_TEXTS, SPEED_WORDS = 16, 128


def add(commands) -> None:
    parser = commands.add_parser("model", help="load a model and show how it encodes")
    parser.add_argument(
        "model",
        metavar="NAME",
        help="a folder, or a name on the Hugging Face Hub; with --configfile or --directory a model of the "
        "configuration",
    )
    add_plan_options(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="a model option as in the configuration, such as pooling=mean; may be repeated",
    )
    parser.add_argument("--role", choices=["query", "passage"], default="passage")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what a model's files and options come to, cosines of three texts, and the speed."""
    with own_code_aside():
        found = examine(options)
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else _page(found))
    return 0


def examine(options: argparse.Namespace) -> dict:
    """Load the model and return what `run` shows."""
    from trove_steps.distributed import pick_device, share_cpu_threads
    from trove_steps.encoder import Encoder
    from trove_steps.models.files import model_files
    from trove_steps.models.location import fetching, locate_model
    from trove_steps.models.settings_resolution import resolve_settings

    name = _name_in_messages(options.model)
    given = _given(options, name)
    prefix = "query_" if options.role == "query" and "query_model_name_or_path" in given else ""
    option = f"{prefix}model_name_or_path"
    revision = given.get(f"{prefix}model_revision", "main")
    with fetching():
        folder = locate_model(given[option], revision, f"models.{name}", option)
        model_files(folder)  # an adapter's base too
    settings = resolve_settings(folder, given, name)
    share_cpu_threads()
    started = time.perf_counter()
    encoder = Encoder(folder, settings, settings.max_len(options.role), pick_device())
    loaded = time.perf_counter() - started
    vectors = encoder.encode(list(TEXTS)).vectors.astype(float)
    lengths = (vectors**2).sum(1) ** 0.5
    cosines = vectors @ vectors.T / (lengths[:, None] * lengths)
    return {
        "folder": str(folder),
        "role": options.role,
        **encoder.figures(),
        "dim": encoder.dim,
        "seconds_to_load": round(loaded, 1),
        "tokens_per_second": round(_speed(encoder)),
        "texts": list(TEXTS),
        "vector_lengths": lengths.round(4).tolist(),
        "cosines": cosines.round(4).tolist(),
    }


def _given(options: argparse.Namespace, name: str) -> dict:
    """Return the model's block of the configuration, with the options of the command line."""
    import yaml

    from trove_steps.config.loading import load_config
    from trove_steps.errors import TroveStepsError
    from trove_steps.wording import nearest

    if options.configfile or options.directory:
        config = load_config(configuration(options))
        if options.model not in config["models"]:
            known = nearest(options.model, list(config["models"]))
            raise TroveStepsError(f"no model is named '{options.model}'{known}")
        raw = config["models"][options.model]
        datasets = list(config["datasets"])  # which a text format may name
    else:
        raw, datasets = {"model_name_or_path": options.model}, ["any"]
    for entry in options.set:
        option, equals, value = entry.partition("=")
        if not equals:
            raise TroveStepsError(f"--set {entry}: write OPTION=VALUE, such as pooling=mean")
        try:
            raw[option] = _read(option, value)
        except yaml.YAMLError as error:
            raise TroveStepsError(f"--set {entry}: the value is not valid YAML: {error}") from None
    needed = {"corpus_path": "-", "query_path": "-"}
    checked = {"datasets": dict.fromkeys(datasets, needed), "models": {name: raw}}
    return load_config(checked)["models"][name]


def _read(option: str, value: str):
    """Return the value of an option: as YAML, or as it is where the option takes text.

    Text may be in quotes, and a text format may be a section, {dataset: format, …}. Raises
    yaml.YAMLError.
    """
    import yaml

    from trove_steps.config.schema import load_schema

    schema = load_schema()["$defs"]["model"]["properties"].get(option, {})
    is_format = schema.get("$ref") == "#/$defs/format"
    if not (is_format or schema.get("type") == "string"):
        return yaml.safe_load(value)
    if value.startswith(("'", '"', "{")):
        with contextlib.suppress(yaml.YAMLError):
            found = yaml.safe_load(value)
            section = found.values() if isinstance(found, dict) and is_format else [found]
            if all(isinstance(text, str) for text in section):
                return found
    return value


def _name_in_messages(model: str) -> str:
    """Return what a configuration might call a folder, a name on the Hub or a variant (minilm@256)."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).lstrip("._-")[:100] or "model"


def _speed(encoder) -> float:
    """Return the tokens per second of a second pass over texts of unlike lengths."""
    words = " ".join(TEXTS).split() * SPEED_WORDS
    texts = [" ".join(words[: n * SPEED_WORDS // SPEED_TEXTS]) for n in range(1, SPEED_TEXTS + 1)]
    encoder.encode(texts)
    encoded = encoder.encode(texts)
    return encoded.tokens / sum(encoded.seconds.values())


def _page(found: dict) -> str:
    rows = [
        (option, _shown(entry["value"]), entry["source"])
        for option, entry in found["settings"].items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    pure = "yes" if found["is_pure"] else "NO: the last bits depend on what is encoded together"
    threads = f", {found['threads']} threads" if found["threads"] else ""
    lines = [
        f"model      {found['folder']}",
        f"device     {found['device']}{threads} · {found['torch_dtype']} · attention: "
        f"{found['attention'] or 'unknown'}",
        f"vectors    {found['dim']} dimensions, of length "
        + ", ".join(f"{length:g}" for length in found["vector_lengths"]),
        f"pure       {pure}",
        f"speed      {found['tokens_per_second']:,} tokens/s; loaded in {found['seconds_to_load']} s",
        "",
        *(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows),
        *(
            [f"prompts not used (no text format takes them): {', '.join(found['unused_prompts'])}"]
            if found["unused_prompts"]
            else []
        ),
        "",
        f"cosines of three texts, as {found['role']}:",
        *(
            f"  {' '.join(f'{value:7.4f}' for value in row)}  {text}"
            for row, text in zip(found["cosines"], found["texts"], strict=True)
        ),
    ]
    return "\n".join(lines)


def _shown(value) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
