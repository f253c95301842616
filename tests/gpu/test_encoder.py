"""The encoder on a GPU: equal to the CPU's vectors, pure, and at ease with little memory."""

import random

import numpy as np
import pytest

from tests.models import HARD_TEXTS, KINDS, MAX_LEN, TROVE, mixed_texts, settings_of
from trove_steps.encoder import Encoder

pytestmark = pytest.mark.gpu

TEXTS = HARD_TEXTS + mixed_texts(60, seed=7)
# Largest 1 - cosine of a text's vectors; those of float32 must be close component by component too.
FURTHEST = {"float32": 1e-6, "bfloat16": 1e-3, "float16": 1e-4}


def on(folders, kind: str, device: str, dtype: str = "float32", **options) -> Encoder:
    settings = settings_of(TROVE[KINDS[kind]], torch_dtype=dtype)
    return Encoder(folders(kind), settings, MAX_LEN, device, **options)


@pytest.mark.parametrize("dtype", FURTHEST)
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_the_cpu(folders, device, kind, dtype):
    expected = on(folders, kind, "cpu").encode(TEXTS).vectors
    found = on(folders, kind, device, dtype).encode(TEXTS).vectors
    assert (1 - (found * expected).sum(1)).max() < FURTHEST[dtype]
    if dtype == "float32":
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", FURTHEST)
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_pure(folders, device, kind, dtype):
    encoder = on(folders, kind, device, dtype)
    assert encoder.is_pure
    vectors = encoder.encode(TEXTS).vectors
    chance = random.Random(2)
    for size in (len(TEXTS), 1, 2, 9, 33):
        chosen = chance.sample(range(len(TEXTS)), size)
        again = encoder.encode([TEXTS[number] for number in chosen]).vectors
        assert np.array_equal(again.view(np.uint32), vectors[chosen].view(np.uint32))
    fresh = on(folders, kind, device, dtype).encode(TEXTS).vectors
    assert np.array_equal(fresh.view(np.uint32), vectors.view(np.uint32))


def test_lack_of_memory_halves_the_budget(folders, device):
    import torch

    expected = on(folders, "bert", device).encode(TEXTS).vectors
    notices = []
    encoder = on(
        folders, "bert", device, tokens_per_batch=2**24, notice=notices.append
    )  # 4 GB and more for each layer
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2**30 / total), device)
    try:
        found = encoder.encode(TEXTS).vectors
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert encoder.halvings == len(notices) >= 1
    assert "does not hold" in notices[0]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_figures_name_the_gpu(folders, device):
    import torch

    figures = on(folders, "bert", device).figures()
    assert figures["device"] == torch.cuda.get_device_name(device)
    assert figures["threads"] is None
    assert (figures["tokens_per_batch"], figures["pad_to_multiple_of"]) == (16384, 8)
