"""Step: read all files of a data set once, before anything is encoded.

Writes data.json: the files, counts, what each filter left, and warnings. What can't be right (a broken
line, an id that occurs twice, judgments of another data set) ends the run with file and line; what is
probably a mistake is a warning, unless the data set is `strict`.
"""

import argparse
import time
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.data.checks import check_data
from trove_steps.data.findings import warning_line
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json
from trove_steps.progress import report
from trove_steps.results import drop_records, write_record
from trove_steps.wording import counted

FILE = "data.json"


def run(arguments: argparse.Namespace) -> None:
    """Check a data set and write what was found."""
    started = time.perf_counter()
    description = read_json(arguments.data)
    found = check_data(description, arguments.encoding_cache_dir / "in")
    for warning in found["warnings"]:
        report(f"warning: datasets.{arguments.name}: {warning_line(warning)}")
    if description["strict"] and found["warnings"]:
        raise TroveStepsError(
            f"datasets.{arguments.name}: {counted(len(found['warnings']), 'warning')}, and strict is set: "
            "correct the data, or set strict: false"
        )
    table = arguments.record.parent.parent / FILE
    drop_records(arguments.record)
    write_json(table, found)
    write_record(arguments.record, [table], dataset=arguments.name)
    qrels = found["qrels"]
    report(
        f"check {arguments.name}: {counted(found['corpus']['records'], 'document')}, "
        f"{counted(found['queries']['records'], 'query', 'queries')}, "
        f"{counted(qrels['judgments'] if qrels else 0, 'judgment')}, "
        f"{counted(len(found['warnings']), 'warning')} · "
        f"{time.perf_counter() - started:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.check_data", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="what the data set consists of (JSON)",
    )
    parser.add_argument(
        "--encoding-cache-dir",
        type=Path,
        default=Path("cache"),
        help="its folder `in` has the files",
    )
    parser.add_argument("--name", required=True, help="the data set, for people")
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="written last")
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
