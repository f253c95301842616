"""embedding_dtype: what is stored, and that a search reads it."""

import numpy as np
import pytest

from tests.conftest import make_dataset
from trove_steps.distributed import Comm
from trove_steps.embeddings.shards import Shard
from trove_steps.embeddings.store import Store
from trove_steps.embeddings.vectors import Vectors
from trove_steps.encoding.job import Job
from trove_steps.encoding.run import run
from trove_steps.errors import TroveStepsError
from trove_steps.models.settings_resolution import resolve_settings


@pytest.fixture
def encoded(tiny_model, tmp_path):
    """Encode the queries of a tiny data set with some settings; return (vectors, shards' dtypes)."""
    data = make_dataset(tmp_path / "data")

    def encode(**given):
        cache = tmp_path / f"cache-{len(list(tmp_path.glob('cache-*')))}"
        settings = resolve_settings(tiny_model, {"pooling": "mean", **given}, "m")
        run(
            Job(
                role="queries",
                paths=[data / "queries.jsonl"],
                digests=None,
                model_folder=tiny_model,
                model_name="m",
                settings=settings,
                cache_dir=cache,
                batch_size=8,
            ),
            Comm(),
        )
        (manifest,) = cache.glob("embeddings/*/queries-*.json")
        store = Store(cache, manifest.parent.name)
        kinds = {Shard(store.shard_path(name)).vectors.dtype for name in store.shard_names()}
        return Vectors(manifest).take(np.arange(12)), kinds

    return encode


def test_float16_is_the_rounded_float32(encoded):
    full, kinds = encoded()
    assert kinds == {np.dtype("float32")}
    half, kinds = encoded(embedding_dtype="float16")
    assert kinds == {np.dtype("float16")}
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, full.astype(np.float16).astype(np.float32))


def test_what_float16_cannot_hold_is_an_error(encoded, monkeypatch):
    from trove_steps.encoder import Encoder

    real = Encoder.encode

    def larger(self, *arguments, **options):
        result = real(self, *arguments, **options)
        result.vectors *= 1e6
        return result

    monkeypatch.setattr(Encoder, "encode", larger)
    encoded()
    with pytest.raises(TroveStepsError, match="holds NaN or infinity"):
        encoded(embedding_dtype="float16")
