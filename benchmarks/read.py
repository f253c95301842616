"""Reading and keying a corpus beside parsing alone: 1,000,000 documents of JSON lines, 0.5 GB, by default.

    python benchmarks/read.py [--records 1000000] [--rounds 5] [--file corpus.jsonl]

"keyed" is what an encode job does before it looks vectors up: parse, check, fill in the text template,
name each text by its SHA-256, check that the file is still the one that was planned with; "one process"
is the same without the processes that share the work. Each round takes all in turn, in processes of
their own, the file being in the page cache. Ratios are medians over the rounds of seconds beside those of
orjson over the lines in the same round, of wall-clock time and of CPU time, child processes and threads
included. polars, which keeps the whole table in memory, is measured where it is installed; so is msgspec,
which here reads three fields only.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET = 1.5
TEMPLATE = "{title} {text}"


def make(path: Path, records: int) -> None:
    """Write a corpus: words of random letters; a fifth of the texts with other characters or escapes."""
    chance = random.Random(0)
    words = [
        "".join(chance.choices("etaoinshrdlucmfw", k=chance.randint(2, 11))) for _ in range(5000)
    ]
    odd = ["café", "α-helix", "“quoted”", '"so"', "line\nend", "±5%"]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(records):
            text = chance.choices(words, k=chance.randint(32, 90))
            if chance.random() < 0.2:
                text[chance.randrange(len(text))] = chance.choice(odd)
            title = " ".join(chance.choices(words, k=6))
            record = {"_id": str(number), "title": title, "text": " ".join(text)}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def orjson(path: Path, digest: str) -> None:
    import orjson

    with open(path, "rb") as file:
        for line in file:
            orjson.loads(line)


def polars(path: Path, digest: str) -> None:
    import polars

    polars.read_ndjson(path)


def msgspec(path: Path, digest: str) -> None:
    import msgspec

    fields = [("_id", str), ("title", str), ("text", str)]
    decode = msgspec.json.Decoder(msgspec.defstruct("Record", fields)).decode
    with open(path, "rb") as file:
        for line in file:
            decode(line)


def keyed(path: Path, digest: str) -> None:
    from trove_steps.data import Reader
    from trove_steps.fingerprint import Fingerprints
    from trove_steps.keyed import keyed_records

    fingerprints = Fingerprints(path.parent / "cache")
    for _ in keyed_records(path, digest, fingerprints, Reader(), TEMPLATE, ""):
        pass


def one_process(path: Path, digest: str) -> None:
    from trove_steps import keyed as module

    module.MOST_PROCESSES = 1
    keyed(path, digest)


WAYS = {
    "orjson": orjson,
    "polars": polars,
    "msgspec": msgspec,
    "one process": one_process,
    "keyed": keyed,
}


def measure(way: str, path: Path, digest: str) -> None:
    """Print the wall-clock and CPU seconds of one way as JSON; imports count for none."""
    WAYS[way](path.with_name("few.jsonl"), hash_of(path.with_name("few.jsonl")))
    before, began = cpu_seconds(), time.perf_counter()
    WAYS[way](path, digest)
    print(json.dumps({"wall": time.perf_counter() - began, "cpu": cpu_seconds() - before}))


def cpu_seconds() -> float:
    ours = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(who)[:2]) for who in ours)


def hash_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(path: Path) -> str:
    """Return the SHA-256 of a file and have it remembered, as the planner does before any job starts."""
    from trove_steps.fingerprint import SETTLING_SECONDS, Fingerprints

    time.sleep(SETTLING_SECONDS + 0.5)  # a younger file's is not
    return Fingerprints(path.parent / "cache").file(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", type=Path, help="a corpus of your own")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, path, digest = options.measure
        measure(way, Path(path), digest)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "few.jsonl", 100)
        path = Path(folder) / "corpus.jsonl"
        if options.file:
            path.symlink_to(options.file.resolve())
        else:
            make(path, options.records)
        return compare(path, options.rounds)


def compare(path: Path, rounds: int) -> int:
    """Measure and print; return 1 if the target is missed."""
    digest = remembered(path)
    ways = [way for way in WAYS if way not in ("polars", "msgspec") or installed(way)]
    taken: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            command = [sys.executable, __file__, "--measure", way, str(path), digest]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            taken[way].append(json.loads(shown))
    print(
        f"{path.stat().st_size / 1e6:.0f} MB, {len(os.sched_getaffinity(0))} CPUs, {rounds} rounds"
    )
    found = {}
    for way in ways:
        found[way] = {
            **{kind: median(taken[way], kind) for kind in ("wall", "cpu")},
            **{f"{kind}_ratio": ratio(taken, way, kind) for kind in ("wall", "cpu")},
        }
        print(
            "{0:12} wall {wall:6.2f} s, {wall_ratio:5.2f} x · CPU {cpu:6.2f} s, {cpu_ratio:5.2f} x".format(
                way, **found[way]
            )
        )
    print(f"target: keyed at most {TARGET} x orjson (wall)")
    print(json.dumps(found))
    return int(found["keyed"]["wall_ratio"] > TARGET)


def installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def median(runs: list[dict], kind: str) -> float:
    return statistics.median(run[kind] for run in runs)


def ratio(taken: dict[str, list[dict]], way: str, kind: str) -> float:
    pairs = zip(taken[way], taken["orjson"], strict=True)
    return statistics.median(ours[kind] / theirs[kind] for ours, theirs in pairs)


if __name__ == "__main__":
    sys.exit(main())
