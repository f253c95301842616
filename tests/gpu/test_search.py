"""The search on a GPU gives the bytes that it gives on a CPU."""

import hashlib

import numpy as np
import pytest

from tests.unit.test_topk import Table, run

pytestmark = pytest.mark.gpu

CASES = {
    "random": lambda chance: (chance.normal(size=(70, 96)), chance.normal(size=(9000, 96))),
    # Few different values: many equal scores, at the edge too.
    "ties": lambda chance: (
        chance.integers(-2, 3, (70, 16)),
        chance.integers(-2, 3, (9000, 16)),
    ),
    # One direction for all: margins of low precision overflow, and the search falls back.
    "close": lambda chance: (
        1 + 1e-4 * chance.normal(size=(70, 64)),
        1 + 1e-4 * chance.normal(size=(9000, 64)),
    ),
}


def digest(queries, documents, **options) -> str:
    found = hashlib.sha256()
    for part in run(Table(queries), Table(documents), 40, **options):
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("candidate_pass", ["float32", "bfloat16", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_bytes_are_those_of_the_cpu(device, case, candidate_pass):
    queries, documents = CASES[case](np.random.default_rng(1))
    expected = digest(queries, documents, candidate_pass="float32")
    for block_rows in (None, 1024):
        options = {"candidate_pass": candidate_pass, "block_rows": block_rows}
        assert digest(queries, documents, device=device, **options) == expected
