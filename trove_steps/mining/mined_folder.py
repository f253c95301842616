"""The folder `mined` of a data set and model, or of the merged negatives of a data set."""

import shutil
from pathlib import Path

from trove_steps.files import write_json, written_atomically
from trove_steps.mining.mined import Mined
from trove_steps.mining.training_files import FORMATS

QRELS = ("mined_qrels.tsv", "mined_qrels.jsonl")


def clear(folder: Path) -> None:
    """Remove what an earlier configuration left in a folder of negatives."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*QRELS, *(file for file, _ in FORMATS.values())):
        (folder / name).unlink(missing_ok=True)
    for pair in folder.glob("query_corpus_pair_*"):
        shutil.rmtree(pair)


def write_findings(folder: Path, mined: Mined, further: dict[str, int]) -> list[Path]:
    """Write audit.parquet, funnel.parquet and funnel.json; return their paths."""
    import pyarrow.parquet as pq

    tables = {"audit.parquet": mined.audit, "funnel.parquet": mined.funnel}
    for name, table in tables.items():
        with written_atomically(folder / name) as temporary:
            pq.write_table(table, temporary)
    write_json(folder / "funnel.json", mined.counts | further)
    return [folder / name for name in (*tables, "funnel.json")]
