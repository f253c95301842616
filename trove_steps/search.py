"""Step: the best documents of every query, by exhaustive and exact search over cached vectors.

Writes {output}.json (a manifest) and beside it the ranking as Arrow IPC: query and document numbers
(rows of the collections' tables) and float64 scores, by query, then score descending, then document id
descending. The bytes do not depend on the number of processes, on batch sizes or on the device.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trove_steps.arguments import batch_size, run_step, step_parser
from trove_steps.distributed import Comm, communicator, pick_device, share_cpu_threads
from trove_steps.embeddings.derived import Derived, Scaled, bytes_per_vector
from trove_steps.embeddings.paths import manifest_path
from trove_steps.embeddings.vectors import Vectors
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_manifest, write_json, written_atomically
from trove_steps.fingerprint import hash_file
from trove_steps.keys import derived_recipe, recipe_key, search_recipe
from trove_steps.manifest_table import read_table
from trove_steps.progress import progress_bar, report
from trove_steps.ranking import Ranking
from trove_steps.topk.passes import PASSES
from trove_steps.topk.search import search

QUERIES_PER_BATCH = 1000  # of the file; fixed, so that its bytes don't depend on tile sizes
MANIFEST = {"recipe": dict, "arrow_sha256": str, "bytes_per_vector": int}
SCHEMA = pa.schema([("query", pa.int32()), ("document", pa.int64()), ("score", pa.float64())])


def write_ranking(path: Path, tiles: Iterable, queries: int) -> int:
    """Write tiles of results as they come, in batches of a fixed number of queries; return the rows."""
    rows = 0
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        for batch in _batches(tiles, queries):
            writer.write_batch(batch)
            rows += len(batch)
    return rows


def _batches(tiles: Iterable, queries: int) -> Iterator[pa.RecordBatch]:
    held: list[pa.Table] = []
    next_bound = QUERIES_PER_BATCH
    for tile in tiles:
        numbers = np.arange(tile.first, tile.first + len(tile.offsets) - 1, dtype=np.int32)
        columns = [np.repeat(numbers, np.diff(tile.offsets)), tile.docs, tile.scores]
        held.append(pa.table(columns, schema=SCHEMA))
        while tile.first + len(tile.offsets) - 1 >= next_bound:
            together = pa.concat_tables(held)
            inside = pc.less(together["query"], next_bound)
            yield _one_batch(together.filter(inside))
            held = [together.filter(pc.invert(inside))]
            next_bound += QUERIES_PER_BATCH
    if next_bound - QUERIES_PER_BATCH < queries:
        yield _one_batch(pa.concat_tables(held))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=SCHEMA)


def read_ranking(manifest: Path, cache_dir: Path) -> Ranking:
    """Load what a search found, with the ids of its queries and documents."""
    return open_search(manifest, cache_dir)[0]


def as_frame(ranking: Ranking):
    """Return a ranking as a pandas.DataFrame for people; see trove_steps.load_ranking."""
    columns = {
        "query": ranking.query_ids.take(pa.array(ranking.row_queries)),
        "document": ranking.doc_ids.take(pa.array(ranking.docs)),
        "rank": np.arange(len(ranking.docs)) - np.repeat(ranking.offsets[:-1], ranking.lengths) + 1,
        "score": ranking.scores,
    }
    return pa.table(columns).to_pandas()


def open_search(manifest: Path, cache_dir: Path) -> tuple:
    """Load a ranking and the vectors that were searched: (Ranking, queries, documents).

    Raises TroveStepsError, and in a step withdraws the manifest, if a file is missing or was changed.
    """
    described = read_manifest(manifest, "a search (top….json)", MANIFEST)
    table = read_table(manifest, described["arrow_sha256"])
    recipe = described["recipe"]
    queries, documents = (
        Vectors(manifest_path(cache_dir, recipe[side]["encoder"], side, recipe[side]["texts"]))
        for side in ("queries", "corpus")
    )
    counts = np.bincount(table["query"].to_numpy(), minlength=len(queries))
    ranking = Ranking(
        query_ids=queries.ids,
        doc_ids=documents.ids,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        docs=table["document"].to_numpy(),
        scores=table["score"].to_numpy(),
    )
    return ranking, as_searched(queries, recipe), as_searched(documents, recipe)


def as_searched(vectors: Vectors, recipe: dict):
    """Return vectors as the recipe of a search has them: cut, quantised, scaled to length 1."""
    if recipe.get("derived"):
        vectors = Derived(vectors, recipe["derived"])
    return Scaled(vectors) if recipe["similarity"] == "cosine" else vectors


def identical_ids(queries: Vectors, documents: Vectors) -> np.ndarray:
    """Return int64[Q]: the number of the document that has a query's own id, -1 for none."""
    found = np.full(len(queries), -1, np.int64)
    first = 0
    for chunk in documents.ids.chunks:  # together, ids of more than 2 GB would not fit one array
        place = pc.index_in(queries.ids, value_set=chunk).fill_null(-1).to_numpy()
        found = np.where((found < 0) & (place >= 0), first + place, found)
        first += len(chunk)
    return found


def run(arguments, comm: Comm) -> None:
    """Search, and on rank 0 write the ranking and its manifest."""
    started = time.perf_counter()
    queries = Vectors(arguments.query_embeddings)
    documents = Vectors(arguments.corpus_embeddings)
    recipe = search_recipe(
        {key: queries.manifest[key] for key in ("encoder", "texts")},
        {key: documents.manifest[key] for key in ("encoder", "texts")},
        arguments.similarity,
        arguments.exclude_identical_ids,
        derived_recipe(arguments.truncate_dim, arguments.normalize, arguments.quantization),
    )
    _check_expected(arguments.output, recipe)
    if comm.rank == 0:
        for vectors in (queries, documents):
            vectors.check_shards()
    share_cpu_threads()
    exclude = identical_ids(queries, documents) if arguments.exclude_identical_ids else None
    searched = as_searched(queries, recipe), as_searched(documents, recipe)
    _check_widths(*searched)
    bar = progress_bar(len(queries) * len(documents), "search", "pairs", comm.rank == 0)
    tiles = search(
        *searched,
        arguments.depth,
        block_rows=arguments.per_device_matmul_batch_size,
        device=pick_device(),
        comm=comm,
        exclude=exclude,
        progress=_shown_by(bar, searched[1].dim),
        candidate_pass=arguments.candidate_pass,
    )
    if comm.rank != 0:
        for _ in tiles:
            pass
        return
    path = arguments.output.with_suffix(".arrow")
    with written_atomically(path) as temporary:
        rows = write_ranking(temporary, tiles, len(queries))
    bar.close()
    write_json(
        arguments.output,
        {
            "recipe": recipe,
            "depth": arguments.depth,
            "queries": len(queries),
            "documents": len(documents),
            "rows": rows,
            "bytes_per_vector": bytes_per_vector(
                documents.dim, recipe.get("derived", {}), documents.value_bytes
            ),
            "arrow_sha256": hash_file(path),
        },
    )
    report(
        f"search: {len(queries):,} queries × {len(documents):,} documents, depth "
        f"{arguments.depth} · {time.perf_counter() - started:.1f} s"
    )


def _check_expected(output: Path, recipe: dict) -> None:
    if output.parent.parent.name == "searches" and output.parent.name != recipe_key(recipe):
        raise TroveStepsError(
            f"these embeddings belong to the search {recipe_key(recipe)}, not to {output}: start the "
            "workflow again"
        )


def _check_widths(queries, documents) -> None:
    if len(queries) and len(documents) and queries.dim != documents.dim:
        raise TroveStepsError(
            f"the vectors of the queries have {queries.dim} dimensions, those of the documents "
            f"{documents.dim}: they are not of one model"
        )


def _shown_by(bar, dim: int):
    """Return a function that shows how many pairs are done, and at which rate."""
    started = time.perf_counter()

    def show(done: int) -> None:
        rate = 2 * dim * done / max(time.perf_counter() - started, 1e-9) / 1e9
        bar.set_postfix_str(f"{rate:.0f} GFLOP/s", refresh=False)
        bar.update(done - bar.n)

    return show


def main() -> None:
    parser = step_parser("search", __doc__)
    for option, what in (("--query-embeddings", "queries"), ("--corpus-embeddings", "documents")):
        parser.add_argument(
            option, type=Path, required=True, metavar="FILE", help=f"manifest of the encoded {what}"
        )
    parser.add_argument("--depth", type=int, required=True, help="documents kept for each query")
    parser.add_argument("--similarity", choices=["dot", "cosine"], default="dot")
    parser.add_argument(
        "--truncate-dim", type=int, metavar="N", help="search the first N dimensions of the vectors"
    )
    parser.add_argument(
        "--normalize", action="store_true", help="scale vectors that were cut to length 1 again"
    )
    parser.add_argument(
        "--quantization", choices=["int8", "binary"], help="search quantised vectors"
    )
    parser.add_argument(
        "--exclude-identical-ids",
        action="store_true",
        help="a query never retrieves the document that has its own id",
    )
    parser.add_argument(
        "--per-device-matmul-batch-size",
        type=batch_size,
        default=0,
        metavar="N",
        help="documents scored at once, which changes speed and memory only; 0: what suits the memory",
    )
    parser.add_argument(
        "--candidate-pass",
        choices=PASSES,
        default="auto",
        help="precision of the first, fast pass; changes speed only",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the manifest to be written"
    )
    arguments = parser.parse_args()
    with communicator() as comm:
        run(arguments, comm)


if __name__ == "__main__":
    run_step(main)
