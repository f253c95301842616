"""Dense-retrieval inference as cached, restartable steps."""

__version__ = "0.1.0"


def load_embeddings(source, path=None, *, role="corpus", configfile=None):
    """Return (ids, vectors) of an encoded collection, in file order.

    source: "DATASET/MODEL", or a manifest, `cache/embeddings/…/corpus-….json` or `queries-….json`.
    path: if given, the vectors are written to this .npy file and memory-mapped from there; else they are
    gathered in memory.
    role: of DATASET/MODEL, "corpus" or "queries".
    configfile: the configuration that has DATASET/MODEL, or a list of which a later one overrides (default:
    config/config.yaml). As for snakemake, paths in it are relative to the working directory.

    ids: list of n strings. vectors: float32[n, dim]; of a manifest as the model made them, of DATASET/MODEL
    as its searches compare them: cut or quantised as its variant says, of length 1 where the similarity is
    cosine. Raises TroveStepsError if nothing has that name, if it is not encoded yet, or if the
    configuration, the manifest or the vectors can't be read.
    """
    from trove_steps.embeddings.export import as_arrays
    from trove_steps.named import find_vectors

    return as_arrays(find_vectors(source, role, lambda: _plan(configfile)), path)


def load_ranking(source, cache=None, *, configfile=None):
    """Return a search as a pandas.DataFrame, best first for each query, queries in file order.

    source: "DATASET/MODEL", whose deepest search it is, or a manifest, `cache/searches/…/top….json`.
    cache: the folder that holds the vectors, if the manifest does not lie in it.
    configfile: as in `load_embeddings`.

    Columns: query and document (ids, str), rank (int64, from 1), score (float64). Raises TroveStepsError if
    nothing has that name, if it is not searched yet, or if the configuration, the manifest, its ranking or
    the tables of ids can't be read.
    """
    from pathlib import Path

    from trove_steps.named import find_search
    from trove_steps.search import as_frame, read_ranking

    manifest, its_cache = find_search(source, lambda: _plan(configfile))
    return as_frame(read_ranking(manifest, Path(cache or its_cache)))


def _plan(configfile):
    from pathlib import Path

    from trove_steps.config.reading import read_configurations
    from trove_steps.plan import Plan

    given = configfile if isinstance(configfile, list | tuple) else [configfile]
    return Plan(read_configurations([Path(path) for path in given if path is not None]))
