"""Step: write report.html, one page to look at: leaderboard, queries, mining, cost, provenance."""

import argparse
import os
import time
from pathlib import Path

from trove_steps.arguments import run_step
from trove_steps.files import written_atomically
from trove_steps.progress import report
from trove_steps.results import drop_records, write_record

PAGE = "report.html"


def run(arguments) -> None:
    """Write the page, link it beside the results and write its record."""
    from trove_steps.reporting.collect import collect
    from trove_steps.reporting.page import render

    started = time.perf_counter()
    page = arguments.record.with_suffix(".html")
    shown = arguments.record.parent.parent / PAGE
    content = collect(
        arguments.evaluations,
        arguments.mining,
        arguments.comparison,
        arguments.checks,
        arguments.encoding_cache_dir,
        arguments.logs,
    )
    html = render(content)
    drop_records(arguments.record)
    for old in page.parent.glob("*.html"):
        old.unlink(missing_ok=True)
    for path in (page, shown):
        with written_atomically(path) as temporary:
            temporary.write_text(html, encoding="utf-8")
    write_record(arguments.record, [page, shown])
    report(
        f"report: {shown}, {os.path.getsize(shown) / 1e6:.1f} MB · "
        f"{time.perf_counter() - started:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trove_steps.report", description=__doc__)
    parser.add_argument(
        "--evaluations", nargs="+", type=Path, required=True, metavar="FILE", help="their records"
    )
    parser.add_argument(
        "--mining", nargs="*", type=Path, default=[], metavar="FILE", help="records of mining"
    )
    parser.add_argument(
        "--comparison", nargs="*", type=Path, default=[], metavar="FILE", help="record of comparing"
    )
    parser.add_argument(
        "--checks",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="records of checks of data",
    )
    parser.add_argument("--encoding-cache-dir", type=Path, default=Path("cache"))
    parser.add_argument(
        "--logs", type=Path, default=Path("logs"), help="where benchmark files of the steps are"
    )
    parser.add_argument(
        "--record",
        type=Path,
        required=True,
        metavar="FOLDER/.report/NAME.json",
        help=f"written last; the page is NAME.html beside it and FOLDER/{PAGE}",
    )
    run(parser.parse_args())


if __name__ == "__main__":
    run_step(main)
