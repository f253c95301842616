"""What a cross-encoder says about pairs of texts, kept by content.

    {cache}/pair_scores/{cross-encoder}/
        shards/{sha256}.arrow    key of a pair: fixed_size_binary(16), embedding: its score
        {key}.json               manifest of the pairs of one search
        {key}.arrow              query, document (row numbers of the collections), score

A pair is named by its two strings, so that the same pair of another search, depth or file costs nothing.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trove_steps.embeddings.store import Store
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_manifest, write_json, written_atomically
from trove_steps.fingerprint import hash_file
from trove_steps.keys import TEXT_KEY_BYTES, text_key
from trove_steps.manifest_table import read_table

MANIFEST = {"documents": int, "pairs": int, "arrow_sha256": str}
SCHEMA = pa.schema([("query", pa.int64()), ("document", pa.int64()), ("score", pa.float64())])


class PairStore(Store):
    """The scores of one cross-encoder: a store whose vectors have one dimension."""

    def __init__(self, cache_dir: Path, cross_encoder: str):
        super().__init__(cache_dir, cross_encoder)
        self.directory = Path(cache_dir) / "pair_scores" / cross_encoder
        self.shards_directory = self.directory / "shards"

    def read(self, keys: np.ndarray) -> np.ndarray:
        """Return the scores float32[n] of pairs with these keys uint8[n, 16], NaN where unknown."""
        places = self.find(keys)
        scores = np.full(len(keys), np.nan, np.float32)
        for number in np.unique(places.shards[places.known]):
            here = places.shards == number
            if shard := self.open(places.names[number]):
                scores[here] = shard.vectors[places.rows[here], 0]
        return scores


def pair_key(query: str, passage: str) -> bytes:
    """Return the 16 bytes that name a pair of strings."""
    return hashlib.sha256(text_key(query) + text_key(passage)).digest()[:TEXT_KEY_BYTES]


@dataclass(frozen=True)
class PairScores:
    """Scores of pairs, as `mining.Teacher`.

    Attributes:
        pairs: int64[n], ascending: query × documents + document.
        scores: float64[n].
        documents: number of documents of the corpus.
    """

    pairs: np.ndarray
    scores: np.ndarray
    documents: int

    def __call__(self, queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """Return the scores float64[m] of pairs (int64[m], int64[m])."""
        wanted = queries * self.documents + docs
        if not len(wanted):
            return np.empty(0)
        places = np.minimum(np.searchsorted(self.pairs, wanted), max(len(self.pairs) - 1, 0))
        if not len(self.pairs) or (self.pairs[places] != wanted).any():
            raise TroveStepsError(
                "a candidate has no score of the cross-encoder: run the step rescore with the same "
                "search, judgments and options"
            )
        return self.scores[places]


def write_pair_scores(
    path: Path, queries: np.ndarray, docs: np.ndarray, scores: np.ndarray, **content
) -> None:
    """Write the scores of pairs, sorted by query and document, and last their manifest at ``path``."""
    table = pa.table([queries, docs, scores.astype(np.float64)], schema=SCHEMA)
    arrow = path.with_suffix(".arrow")
    with (
        written_atomically(arrow) as temporary,
        pa.ipc.new_file(str(temporary), SCHEMA) as writer,
    ):
        writer.write_table(table, max_chunksize=1 << 20)
    write_json(path, {**content, "pairs": len(table), "arrow_sha256": hash_file(arrow)})


def read_teacher(manifest: Path) -> PairScores:
    """Load what the step rescore wrote."""
    described = read_manifest(manifest, "scores of pairs", MANIFEST)
    table = read_table(manifest, described["arrow_sha256"], "; no pair is scored anew")
    documents = described["documents"]
    pairs = table["query"].to_numpy() * documents + table["document"].to_numpy()
    return PairScores(pairs, table["score"].to_numpy(), documents)
