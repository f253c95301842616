"""`trove-steps cache du | verify | gc | compact`: what lies in the cache, is it sound, what may go."""

import argparse
import json
import re
import time
from pathlib import Path

from trove_steps.commands.planning import add_plan_options, load_plan
from trove_steps.errors import TroveStepsError
from trove_steps.wording import counted

AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add(commands) -> None:
    parser = commands.add_parser("cache", help="list, check and clear the cache")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    du = actions.add_parser("du", help="what takes how much room, by encoder and by collection")
    du.set_defaults(run=run_du)
    verify = actions.add_parser(
        "verify", help="read everything and compare it with the hashes that it is named for"
    )
    verify.add_argument("--dry-run", "-n", action="store_true", help="change nothing")
    verify.set_defaults(run=run_verify)
    gc = actions.add_parser("gc", help="remove what the configuration does not reach")
    gc.add_argument("--dry-run", "-n", action="store_true", help="only say what would be removed")
    gc.add_argument(
        "--older-than",
        type=age,
        default="1d",
        metavar="AGE",
        help="spare what was written or read more recently: 12h, 30d … (1d: jobs that run now are safe)",
    )
    gc.add_argument(
        "--keep",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="keep also what these reach: other configurations (.yaml), or lists of manifests, one a line",
    )
    gc.set_defaults(run=run_gc)
    compact = actions.add_parser("compact", help="merge many small shards into few large ones")
    compact.add_argument("--dry-run", "-n", action="store_true", help="change nothing")
    compact.set_defaults(run=run_compact)
    for action in (du, verify, gc, compact):
        add_plan_options(action)
        if action is not gc:
            action.add_argument(
                "--encoding-cache-dir",
                type=Path,
                metavar="DIR",
                help="the cache, without a configuration",
            )
        action.add_argument("--json", action="store_true", help="print JSON")


def age(text: str) -> float:
    """Return the seconds of 90s, 45m, 12h, 30d or 2w."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no age such as 12h or 30d")
    return float(match[1]) * AGE_UNITS[match[2]]


def _open(options: argparse.Namespace):
    """Return (cache, plan); the plan is None where --encoding-cache-dir is given alone."""
    from trove_steps.cache.contents import Cache

    if options.encoding_cache_dir and not options.configfile:
        return Cache(Path(options.directory or ".") / options.encoding_cache_dir), None
    plan = load_plan(options)
    return Cache(options.encoding_cache_dir or plan.cache), plan


def run_du(options: argparse.Namespace) -> int:
    """Print what takes how much room."""
    from trove_steps.cache.usage import usage

    cache, plan = _open(options)
    names: dict[tuple[str, str, str], list[str]] = {}
    models: dict[str, list[str]] = {}
    for cell in plan.cells.values() if plan else ():
        for e in (cell.corpus, cell.queries):
            model = cell.model.partition("@")[0]  # variants have the vectors of their model
            for listed, name in (
                (names.setdefault((e.role, e.encoder, e.texts), []), cell.dataset),
                (models.setdefault(e.encoder, []), model),
            ):
                if name not in listed:
                    listed.append(name)
    found = usage(cache, names, models)
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else du_tables(found))
    return 0


def du_tables(found: dict) -> str:
    """Return the usage as two tables, the largest first, and the total."""
    from trove_steps import tables
    from trove_steps.cache.usage import describe_encoder

    def largest(entries: list[dict]) -> list[dict]:
        return sorted(entries, key=lambda entry: -entry["bytes"])

    def figures(entry: dict) -> list[str]:
        return [tables.count(entry["rows"]), tables.size(entry["bytes"]), ago(entry["last_use"])]

    encoders = [
        [
            _key(e["encoder"]),
            _short(", ".join(e["models"]) or e["model"] or "–"),
            describe_encoder(e["recipe"]),
            str(e["shards"]),
            *figures(e),
        ]
        for e in largest(found["encoders"])
    ]
    collections = [
        [_short(", ".join(c["datasets"] or c["files"])), c["role"], _key(c["encoder"]), *figures(c)]
        for c in largest(found["collections"])
    ]
    header = ["encoder", "model", "recipe", "shards", "rows", "bytes", "last use"]
    parts = ", ".join(f"{name} {tables.size(value)}" for name, value in found["parts"].items())
    return "\n".join(
        [
            tables.aligned(header, encoders, left=3),
            "",
            tables.aligned(
                ["dataset", "role", "encoder", "rows", "bytes", "last use"], collections, left=3
            ),
            "",
            f"all: {tables.size(found['bytes'])}, of that {parts}",
        ]
    )


def _key(encoder: str) -> str:
    return encoder.removeprefix("imported-")[:8]


def _short(path: str) -> str:
    return path if len(path) <= 40 else "…" + path[-39:]


def ago(moment: float) -> str:
    """Spell how long ago a moment was: 3 h ago."""
    passed = max(0.0, time.time() - moment)
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= unit:
            return f"{passed / unit:.0f} {name} ago"
    return "just now"


def run_verify(options: argparse.Namespace) -> int:
    """Check the cache; return 1 if something is damaged."""
    from trove_steps import tables
    from trove_steps.cache.verification import verify

    cache, _ = _open(options)
    found = verify(cache, repair=not options.dry_run)
    if options.json:
        damages = [{**vars(damage), "path": str(damage.path)} for damage in found.damages]
        print(json.dumps({**vars(found), "damages": damages}, indent=2))
    else:
        for damage in found.damages:
            print(f"{damage.path}: {damage.problem}; {damage.remedy}")
        print(
            f"{counted(found.shards, 'shard')}, {counted(found.collections, 'collection')}, "
            f"{counted(found.searches, 'search', 'searches')}, "
            f"{tables.size(found.bytes)} read: "
            + (f"{len(found.damages):,} damaged" if found.damages else "all sound")
        )
    return 1 if found.damages else 0


def run_gc(options: argparse.Namespace) -> int:
    """Remove, or with --dry-run list, what the configuration and the kept lists do not reach."""
    from trove_steps import tables
    from trove_steps.cache.contents import Cache
    from trove_steps.cache.garbage import collect_garbage, reached_by

    lists = [path.absolute() for path in options.keep]
    plan = load_plan(options)
    kept = reached_by(plan)
    for path in lists:
        kept |= _kept_by(path)
    garbage = collect_garbage(Cache(plan.cache), kept, options.older_than, options.dry_run)
    total = sum(item.bytes for item in garbage)
    if options.json:
        listed = [{**vars(item), "path": str(item.path)} for item in garbage]
        print(
            json.dumps({"removed": not options.dry_run, "bytes": total, "items": listed}, indent=2)
        )
        return 0
    rows = [
        [item.what, tables.size(item.bytes), ago(item.last_use), str(item.path)] for item in garbage
    ]
    if rows:
        print(tables.aligned(["what", "bytes", "last use", "path"], rows, left=4))
    done = "would be freed; nothing was removed" if options.dry_run else "freed"
    print(f"{tables.size(total)} {done}" if rows else "nothing to remove")
    return 0


def run_compact(options: argparse.Namespace) -> int:
    """Merge the small shards of every encoder and say what became of them."""
    from trove_steps import tables
    from trove_steps.embeddings.compaction import compact

    cache, _ = _open(options)
    done = {f.key: compact(f.store, dry_run=options.dry_run) for f in cache.encoders}
    if options.json:
        print(json.dumps({key: vars(figures) for key, figures in done.items()}, indent=2))
        return 0
    header = ["encoder", "shards", "after", "rows", "after", "bytes", "after", "duplicates"]
    rows = [
        [
            _key(key),
            *(tables.count(n) for n in (f.shards_before, f.shards_after)),
            *(tables.count(n) for n in (f.rows_before, f.rows_after)),
            *(tables.size(n) for n in (f.bytes_before, f.bytes_after)),
            tables.count(f.duplicates),
        ]
        for key, f in done.items()
    ]
    print(tables.aligned(header, rows))
    if options.dry_run:
        print("nothing was changed")
    return 0


def _kept_by(path: Path):
    from trove_steps.cache.garbage import reached_by, reached_by_list
    from trove_steps.config.reading import read_configuration
    from trove_steps.plan import Plan

    if path.suffix in (".yaml", ".yml"):
        return reached_by(Plan(read_configuration(path)))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TroveStepsError(f"--keep {path}: can't be read ({error})") from None
    return reached_by_list(lines)
