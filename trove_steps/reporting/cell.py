"""One data set with one model, as the report sees it: its results and what of the cache they came from."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trove_steps.data.collections import Files
from trove_steps.embeddings.paths import manifest_path
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.judging import judgments
from trove_steps.keys import recipe_key
from trove_steps.ranking import Judgments, Ranking
from trove_steps.search import open_search
from trove_steps.texts import read_some, snippet

SIDES = ("queries", "corpus")
SNIPPET = 140


@dataclass
class Cell:
    """The finished evaluation of one data set with one model, and its mining if there is one."""

    record: dict
    folder: Path
    cache: Path
    logs: Path
    mining: dict | None = None
    wanted: dict[int, str] = field(default_factory=dict)  # documents whose text is shown

    @property
    def dataset(self) -> str:
        return self.record["cell"].split("/")[0]

    @property
    def model(self) -> str:
        return self.record["cell"].split("/")[1]

    @property
    def threshold(self) -> int:
        """The lowest label of a relevant document."""
        return self.record["relevance_threshold"]

    @cached_property
    def figures(self) -> dict:
        return read_json(self.folder / "metrics.json")

    @cached_property
    def metrics(self) -> dict[str, float]:
        names = pq.read_schema(self.folder / "per_query.parquet").names
        return {k: v for k, v in self.figures.items() if k in names}

    @cached_property
    def per_query(self) -> pa.Table:
        return pq.read_table(self.folder / "per_query.parquet")

    @property
    def search_key(self) -> str:
        return recipe_key(self.record["search"])

    @cached_property
    def search_manifest(self) -> Path:
        """The deepest ranking of the cell's search."""
        folder = self.cache / "searches" / self.search_key
        found = sorted(folder.glob("top*.json"), key=lambda path: int(path.stem[3:]))
        if not found:
            raise TroveStepsError(f"{folder} holds no ranking: run the workflow again")
        return found[-1]

    @cached_property
    def opened(self) -> tuple:
        return open_search(self.search_manifest, self.cache)

    @property
    def ranking(self) -> Ranking:
        return self.opened[0]

    @cached_property
    def judgments(self) -> Judgments:
        paths = [self.cache / "in" / digest for digest in self.record["qrels"]]
        search, collections = self.record["search"], self.record["collections"]
        qrels = judgments(Files(paths), collections, search, self.cache)
        return Judgments(self.ranking, qrels)

    def forget(self) -> None:
        """Let go of the ranking, the judgments and the values of each query."""
        for name in ("opened", "judgments", "per_query"):
            self.__dict__.pop(name, None)

    def manifest(self, side: str) -> Path:
        """Return the manifest of the "corpus" or the "queries"."""
        of = self.record["search"][side]
        return manifest_path(self.cache, of["encoder"], side, of["texts"])

    def texts(self, side: str) -> dict:
        """Return the recipe of the texts of the "corpus" or the "queries"."""
        return read_json(self.manifest(side))["recipe"]

    def query_numbers(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the place int64[n] of queries in the ranking, -1 for one that is not there."""
        found = pc.index_in(ids, value_set=self.ranking.query_ids.combine_chunks())
        return found.fill_null(-1).to_numpy().astype(np.int64)

    def query_texts(self, ids: list[str]) -> dict[str, str]:
        """Return query id → text."""
        numbers = self.query_numbers(pa.chunked_array([pa.array(ids, pa.string())]))
        wanted = {row: one for row, one in zip(numbers.tolist(), ids, strict=True) if row >= 0}
        found = read_some(self.cache, self.texts("queries"), wanted)
        return {wanted[row]: text for row, text in found.items()}

    def labels(self, query: int) -> dict[int, float]:
        """Return document → label of the judgments of a query that name a document of the corpus."""
        of = slice(*self.judgments.offsets[query : query + 2])
        docs, labels = self.judgments.docs[of].tolist(), self.judgments.labels[of].tolist()
        return {doc: label for doc, label in zip(docs, labels, strict=True) if doc >= 0}

    def show(
        self, doc: int, rank: int | None, score: float | None, label: float | None = None
    ) -> dict:
        """Return how a document is shown, and see to it that its text will be there."""
        self.wanted[doc] = self.ranking.doc_ids[doc].as_py()
        score = None if score is None else round(float(score), 4)
        return {"doc": doc, "rank": rank, "score": score, "label": label}


def document_texts(cells: Iterable[Cell]) -> dict[int, list[str]]:
    """Return document number → [id, beginning of its text], of all that cells of a data set show."""
    cells = list(cells)
    wanted = {doc: one for cell in cells for doc, one in cell.wanted.items()}
    found = read_some(cells[0].cache, cells[0].texts("corpus"), wanted)
    return {doc: [one, snippet(found.get(doc, ""), SNIPPET)] for doc, one in wanted.items()}
