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
    from trove_steps.export import load_embeddings

    return load_embeddings(manifest, path)
