"""Random samples of candidates that depend on the seed and the ids alone."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa

from trove_steps.ranking import Ranking


def draw_lots(view: Ranking, rows: np.ndarray, seed: int) -> np.ndarray:
    """Draw a uint64 per row from the seed and the two ids, whatever else is in the ranking."""
    queries, query_of = np.unique(view.row_queries[rows], return_inverse=True)
    docs, doc_of = np.unique(view.docs[rows], return_inverse=True)
    lots = _hashes(view.query_ids.take(pa.array(queries)), seed)[query_of]
    lots ^= _hashes(view.doc_ids.take(pa.array(docs)), seed + 1)[doc_of]
    # The finalizer of SplitMix64: without it two queries would order two documents alike too often.
    lots = (lots ^ (lots >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    lots = (lots ^ (lots >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return lots ^ (lots >> np.uint64(31))


def _hashes(ids: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    salt = str(seed).encode()[:16]
    digests = (blake2b(i.encode(), digest_size=8, salt=salt).digest() for i in ids.to_pylist())
    return np.frombuffer(b"".join(digests), "<u8")
