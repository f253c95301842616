"""Dense-retrieval inference as cached, restartable steps."""

__version__ = "0.1.0"


def load_embeddings(manifest, path=None):
    """Return (ids, vectors) of an encoded collection, in file order.

    manifest: `cache/embeddings/…/corpus-….json` or `queries-….json`.
    path: if given, the vectors are written to this .npy file and memory-mapped from there; else they are
    gathered in memory.

    ids: list of n strings. vectors: float32[n, dim], as the model made them. Raises TroveStepsError if the
    manifest or its vectors can't be read.
    """
    from trove_steps.embeddings.export import load_embeddings

    return load_embeddings(manifest, path)


def load_ranking(manifest, cache=None):
    """Return a search as a pandas.DataFrame, best first for each query, queries in file order.

    manifest: `cache/searches/…/top….json`.
    cache: the folder that holds the vectors, if the manifest does not lie in it.

    Columns: query and document (ids, str), rank (int64, from 1), score (float64). Raises TroveStepsError if
    the manifest, its ranking or the tables of ids can't be read.
    """
    from trove_steps.search import load_ranking

    return load_ranking(manifest, cache)
