"""`trove-steps doctor data`: read a data set and show what is in it and what may be wrong with it."""

import argparse
import json
from pathlib import Path

from trove_steps.commands.planning import add_plan_options, configuration, own_code_aside

FIELDS = ("id", "title", "text")


def add(commands) -> None:
    parser = commands.add_parser("data", help="read a data set and look for mistakes")
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what doctor data and show dataset have in common."""
    parser.add_argument("dataset", metavar="NAME", help="a data set of the configuration")
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(options: argparse.Namespace) -> int:
    """Print a check of the data; return 1 if there are warnings and the data set is strict."""
    from trove_steps.data.checks import check_data

    with own_code_aside():
        config, data, links = resolved(options)
        found = check_data(data.checked, links)
        found["lengths"] = {
            name: {
                role: lengths_of(config["models"][name], name, data, role, found[role]["records"])
                for role in ("corpus", "queries")
                if getattr(data, role).links
            }
            for name in _models(config, options.dataset)
        }
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else page(found))
    return 1 if data.strict and found["warnings"] else 0


def resolved(options: argparse.Namespace) -> tuple:
    """Return (configuration, data set resolved to files, folder of links by content)."""
    from trove_steps.config.loading import load_config
    from trove_steps.errors import TroveStepsError
    from trove_steps.fingerprint import Fingerprints
    from trove_steps.inputs import inputs_of
    from trove_steps.wording import nearest

    config = load_config(configuration(options))
    name, known = options.dataset, config["datasets"]
    if name not in known:
        raise TroveStepsError(f"no data set is named '{name}'{nearest(name, list(known))}")
    inputs = inputs_of(config, Fingerprints(Path(config["encoding_cache_dir"])))
    return config, inputs.dataset(name, known[name]), inputs.cache / "in"


def _models(config: dict, dataset: str) -> list[str]:
    """Return the models that run on a data set."""
    pairs = config.get("pairs", [{}])
    return [
        name
        for name in config["models"]
        if any(
            dataset in pair.get("datasets", [dataset]) and name in pair.get("models", [name])
            for pair in pairs
        )
    ]


def lengths_of(given: dict, name: str, data, role: str, records: int) -> dict:
    """Return the lengths of a collection in tokens of the model that encodes it, {"error": …} if unknown.

    given: the model's block of the configuration; role: "corpus" or "queries".
    """
    from trove_steps.data.lengths import text_lengths
    from trove_steps.errors import TroveStepsError
    from trove_steps.formats import OPTIONS, choose_format, formatter
    from trove_steps.models.location import locate_model
    from trove_steps.models.settings_resolution import resolve_settings

    own = role == "queries" and "query_model_name_or_path" in given
    option, revision = ("query_model_name_or_path", "query_model_revision") if own else (
        "model_name_or_path", "model_revision"
    )  # fmt: skip
    if option not in given:
        return {"error": "the model has no model_name_or_path: its vectors come from elsewhere"}
    encoder_role = "query" if role == "queries" else "passage"
    try:
        where = f"models.{name}"
        folder = locate_model(given[option], given.get(revision, "main"), where, option)
        settings = resolve_settings(folder, given, name)
        chosen = choose_format(given.get(OPTIONS[encoder_role]), data.name)
        form = formatter(chosen or getattr(settings, OPTIONS[encoder_role]), data.name)
        files = getattr(data, role)
        max_len = settings.max_len(encoder_role)
        lengths = text_lengths(files, records, form, max_len, settings, folder)
    except TroveStepsError as error:
        return {"error": str(error)}
    return lengths.as_json()


def page(found: dict) -> str:
    """Return what was found as text for people."""
    from trove_steps.data.findings import warning_line

    lines = []
    for side, what in (("corpus", "documents"), ("queries", "queries")):
        told = found[side]
        lines.append(f"{what}: {told['records']:,}")
        for file in told["files"]:
            lines.append(
                f"  {file['path']}: {file['format']}, {file['records']:,} records, {file['empty']:,} empty, "
                f"{file['without_title']:,} without title, sha256 {file['sha256'][:16]}…{_origin(file)}"
            )
        if told["files_with_qualified_ids"]:
            lines.append("  ids that several files hold are told apart as ID_DIGEST")
    if (shared := found["shared_ids"]) and any(shared.values()):
        lines.append(
            f"ids on both sides: {shared['same_text']:,} queries have the id and the text of a document, "
            f"{shared['other_text']:,} its id and another text"
        )
    lines += _judgments(found["qrels"])
    for name, lengths in found.get("lengths", {}).items():
        lines += _lengths_of(name, lengths)
    lines.append(f"warnings: {len(found['warnings']) or 'none'}")
    lines += [f"  {warning_line(warning)}" for warning in found["warnings"]]
    return "\n".join(lines)


def _judgments(qrels: dict | None) -> list[str]:
    if qrels is None:
        return ["judgments: none"]
    lines = [f"judgments: {qrels['judgments']:,} of {qrels['queries']:,} queries"]
    lines += [
        f"  {file['path']}: sha256 {file['sha256'][:16]}…{_origin(file)}" for file in qrels["files"]
    ]
    for number, told in enumerate(qrels["collections"]):
        place = f"collection {number}: " if len(qrels["collections"]) > 1 else ""
        formats = ", ".join(dict.fromkeys(told["formats"]))
        lines.append(f"  {place}{formats}: {told['read']:,} read")
        lines += [
            f"    {step['filter']}: {step['before']:,} → {step['after']:,}"
            for step in told["steps"]
        ]
        if told["repeated"]:
            lines.append(
                f"    {told['repeated']:,} repeat a pair of query and document: the last counts"
            )
    if qrels["overruled"]:
        lines.append(f"  {qrels['overruled']:,} of them replaced by a later collection")
    labels = ", ".join(f"{label}: {count:,}" for label, count in qrels["labels"])
    more = f" and {qrels['more_labels']} more" if qrels["more_labels"] else ""
    return [*lines, f"  labels {labels}{more}"]


def _origin(file: dict) -> str:
    """Say where a file came from that is not the user's own, which collections it is in, how it is read."""
    origin, reader = file.get("origin", {}), dict(file.get("reader", {}))
    parts = []
    if "hub" in origin:
        parts.append(f"{origin['hub']} at {origin['revision']}, commit {origin['commit']}")
    if "ir_datasets" in origin:
        parts.append(f"ir_datasets {origin['ir_datasets']}")
    collections = reader.pop("collections", [])
    if collections:
        parts.append(f"collection {', '.join(map(str, collections))}")
    if file.get("use") == "query_subset_path":
        parts.append(f"query_subset_path of collection {file['collection']}")
    parts += [f"{name} from {field}" for name, field in reader.items() if name in FIELDS]
    return "".join(f"; {part}" for part in parts)


def _lengths_of(model: str, lengths: dict) -> list[str]:
    lines = [f"tokens of {model}:"]
    for role, told in lengths.items():
        if "error" in told:
            lines.append(f"  {role}: {told['error']}")
            continue
        percentiles = ", ".join(f"{p} {n}" for p, n in told["percentiles"].items())
        lines.append(
            f"  {role}: {percentiles}; {told['truncated_share']:.1%} are cut off at {told['max_len']} "
            f"(of {told['texts']:,} texts)"
        )
    return lines
