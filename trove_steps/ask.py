"""Asking a corpus whose vectors are in the cache: the query is encoded here, the documents are not."""

from dataclasses import dataclass

from trove_steps.errors import TroveStepsError
from trove_steps.texts import read_some


@dataclass(frozen=True)
class Answer:
    """A document: its rank from 1, id, score and text (empty where its file is gone)."""

    rank: int
    id: str
    score: float
    text: str


def find_cell(plan, dataset: str | None, model: str | None):
    """Return the cell of a data set and a model; either may be left out where there is only one.

    Raises TroveStepsError if there is no such cell or more than one.
    """
    for option, name, known in (
        ("--dataset", dataset, [d for d, _ in plan.pairs]),
        ("--model", model, [m for _, m in plan.pairs]),
    ):
        names = list(dict.fromkeys(known))
        if name is None and len(names) > 1:
            raise TroveStepsError(f"{option}: which one? The configuration has {', '.join(names)}")
        if name is not None and name not in names:
            raise TroveStepsError(f"{option} {name}: the configuration has {', '.join(names)}")
    chosen = [
        cell for (d, m), cell in plan.cells.items() if dataset in (None, d) and model in (None, m)
    ]
    if not chosen:
        raise TroveStepsError(f"pairs: the configuration does not run {model} on {dataset}")
    return chosen[0]


class Asker:
    """A model in memory and a corpus that it can be asked about."""

    def __init__(self, plan, cell):
        from trove_steps.embeddings.collection import check_vectors
        from trove_steps.embeddings.vectors import Vectors
        from trove_steps.encoder import Encoder
        from trove_steps.formats import formatter
        from trove_steps.search import as_searched

        if cell.queries.step != "encode":
            raise TroveStepsError(
                f"{cell.dataset}/{cell.model}: its queries were encoded elsewhere (query_embeddings), so "
                "that a new one can't be"
            )
        manifest = plan.encoding_manifest(cell.corpus)
        check_vectors(manifest)
        model = cell.queries.model
        max_len = model.settings.encoder_recipe("query")["max_len"]
        self.cache, self.form = plan.cache, formatter(cell.queries.form, cell.queries.dataset)
        self.documents = Vectors(manifest)
        self.recipe = self.documents.manifest["recipe"]
        self.encoder = Encoder(model.folder, model.settings, max_len)
        self.search_recipe = cell.search_recipe
        self.searched = as_searched(self.documents, self.search_recipe)

    def ask(self, text: str, count: int = 10) -> list[Answer]:
        """Return the `count` best documents of a query, exactly and in the order of the search step."""
        from trove_steps.search import as_searched
        from trove_steps.topk.search import search

        query = _Query(self.encoder.encode(self.form([""], [text])).vectors)
        (found,) = search(as_searched(query, self.search_recipe), self.searched, count)
        ids = [self.documents.ids[int(doc)].as_py() for doc in found.docs]
        wanted = dict(zip(map(int, found.docs), ids, strict=True))
        texts = read_some(self.cache, self.recipe, wanted)
        return [
            Answer(rank, one, float(score), texts.get(doc, ""))
            for rank, (doc, one, score) in enumerate(
                zip(wanted, ids, found.scores, strict=True), start=1
            )
        ]


class _Query:
    """One vector in memory, as the search takes them."""

    def __init__(self, vectors):
        import numpy as np
        import pyarrow as pa

        self._vectors, self.dim, self.manifest = vectors, vectors.shape[1], {}
        self.ids, self.order = pa.chunked_array([["query"]]), np.arange(1)

    def __len__(self) -> int:
        return 1

    def take(self, texts):
        return self._vectors[texts]
