"""What max_len cut off: counted over whole collections, also where vectors were reused."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps.encoders.lengths import Cut, measure_cut, read_cut, write_cut, write_lengths
from trove_steps.keys import text_key


def keys_of(texts) -> np.ndarray:
    return np.frombuffer(b"".join(map(text_key, texts)), np.uint8).reshape(-1, 16)


def length_of(text: str) -> tuple[int, int]:
    """Return (tokens read, tokens cut off) of a model that reads one token per character, five at most."""
    return min(len(text), 5), max(0, len(text) - 5)


TEXTS = st.lists(st.text("ab", max_size=9), max_size=12)


@settings(max_examples=40, deadline=None)
@given(jobs=st.lists(TEXTS, max_size=4), asked=TEXTS)
def test_counts_do_not_depend_on_the_history(jobs, asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    known = set()
    for texts in jobs:
        lengths = np.array([length_of(text) for text in texts], int).reshape(-1, 2)
        write_lengths(folder, keys_of(texts), lengths[:, 0], lengths[:, 1])
        known.update(texts)
    counted = [text for text in asked if text in known]
    expected = Cut(
        texts=len(counted),
        texts_cut=sum(len(text) > 5 for text in counted),
        tokens=sum(map(len, counted)),
        tokens_cut=sum(length_of(text)[1] for text in counted),
    )
    assert measure_cut(folder, keys_of(asked)) == expected


def test_damaged_files_are_passed_over(tmp_path):
    write_lengths(tmp_path, keys_of(["a", "b"]), np.array([3, 4]), np.array([0, 7]))
    (tmp_path / "lengths" / "0.npy").write_bytes(b"not an array")
    assert measure_cut(tmp_path, keys_of(["b", "c"])) == Cut(1, 1, 11, 7)
    assert measure_cut(tmp_path / "nowhere", keys_of(["b"])) == Cut(0, 0, 0, 0)


def test_kept_beside_the_manifest(tmp_path):
    manifest = tmp_path / "corpus-0.json"
    assert read_cut(manifest) is None
    write_cut(manifest, Cut(100, 6, 1000, 50))
    assert read_cut(manifest) == Cut(100, 6, 1000, 50)
    said = read_cut(manifest).warning("scifact/m: corpus", "passage_max_len")
    assert "passage_max_len cut 6.0% of the texts and 5.0% of their tokens" in said
    assert Cut(100, 5, 1000, 900).warning("x") is None
    assert Cut(0, 0, 0, 0).warning("x") is None


def test_summary_has_the_shares(tmp_path):
    from trove_steps.embeddings.paths import manifest_path
    from trove_steps.summarise import cut_shares

    search = {side: {"encoder": side[0] * 32, "texts": "1" * 32} for side in ("queries", "corpus")}
    write_cut(manifest_path(tmp_path, "c" * 32, "corpus", "1" * 32), Cut(8, 2, 100, 10))
    assert cut_shares(search, tmp_path) == {"corpus_texts_cut": 0.25, "corpus_tokens_cut": 0.1}
