"""Pure vectors: their bits do not depend on what else is encoded; the probe; lack of memory."""

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import HARD_TEXTS, KINDS, MAX_LEN, encoder_of, minilm, mixed_texts, settings_of
from trove_steps.encoder import Encoder
from trove_steps.errors import TroveStepsError
from trove_steps.models.settings_resolution import resolve_settings


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("bert", "float32"),
        ("qwen3", "bfloat16"),
        *(
            pytest.param(kind, dtype, marks=pytest.mark.slow)
            for kind in KINDS
            for dtype in ("float32", "bfloat16")
            if (kind, dtype) not in (("bert", "float32"), ("qwen3", "bfloat16"))
        ),
    ],
)
def test_vectors_are_pure(kind, dtype, folders):
    """The bits of a vector are the same alone, in any company and order, from a fresh encoder."""
    texts = mixed_texts(24, seed=1) + HARD_TEXTS
    encoder = encoder_of(folders, kind, torch_dtype=dtype)
    assert encoder.is_pure
    vectors = encoder.encode(texts).vectors
    chance = random.Random(2)
    for trial, size in enumerate([len(texts), 1, 2, 9]):
        chosen = chance.sample(range(len(texts)), size)
        other = encoder_of(folders, kind, torch_dtype=dtype) if trial == 0 else encoder
        again = other.encode([texts[number] for number in chosen]).vectors
        assert np.array_equal(again.view(np.uint32), vectors[chosen].view(np.uint32))


@pytest.fixture
def threads():
    """A function that sets the number of threads; it is as before after the test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_number_of_threads(kind, folders, threads):
    texts, found = mixed_texts(60, seed=3) + HARD_TEXTS, []
    for count in (1, 2, 3):
        threads(count)
        encoder = encoder_of(folders, kind)
        assert encoder.figures()["batches_at_once"] == count
        found.append(encoder.encode(texts).vectors)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "at_once"),
    [({}, 12), ({"tokens_per_batch": 4096}, 4), ({"tokens_per_batch": 1 << 20}, 1)],
)
def test_batches_at_once_are_few_where_they_are_large(folders, threads, options, at_once):
    threads(24)
    encoder = Encoder(folders("bert"), settings_of(), MAX_LEN, **options)
    assert encoder.figures()["batches_at_once"] == at_once


def test_batches_that_are_computed_at_once_do_not_meet(folders, threads, monkeypatch):
    """A model that keeps something of a batch in itself, as rotary angles for long texts are, is right."""
    from transformers import BertModel

    texts = mixed_texts(60, seed=4)
    expected = encoder_of(folders, "bert").encode(texts).vectors
    forward, busy, most = BertModel.forward, [], []

    def with_state(self, input_ids, attention_mask):
        busy.append(1)
        most.append(len(busy))
        self.kept = input_ids
        time.sleep(0.002)
        result = forward(self, self.kept, attention_mask)
        busy.pop()
        return result

    monkeypatch.setattr(BertModel, "forward", with_state)
    threads(4)
    encoder = encoder_of(folders, "bert")
    assert np.array_equal(encoder.encode(texts).vectors, expected)
    assert max(most) > 1, "batches were computed at once"


def test_room_for_one_batch_at_a_time_is_enough(folders, threads):
    """Where memory is short because of other batches, a batch is computed alone, as it is."""
    import torch

    texts = mixed_texts(60, seed=7)
    threads(4)
    encoder = encoder_of(folders, "bert")
    expected = encoder.encode(texts).vectors
    forward, busy, refused = encoder.model.forward, [], []

    def small(ids, mask):
        busy.append(1)
        try:
            if len(busy) > 1:
                refused.append(1)
                raise torch.OutOfMemoryError("no room")
            time.sleep(0.002)
            return forward(ids, mask)
        finally:
            busy.pop()

    encoder.model.forward = small
    assert np.array_equal(encoder.encode(texts).vectors, expected)
    assert refused
    assert encoder.halvings == 0


def test_copies_for_threads_share_the_weights(folders):
    from trove_steps.encoders.cpu_layers import copy_with_shared_weights

    model = encoder_of(folders, "bert").model.model
    copy = copy_with_shared_weights(model)
    assert all(a is b for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    assert not any(a is b for a, b in zip(model.modules(), copy.modules(), strict=True))
    pairs = list(zip(model.modules(), copy.modules(), strict=True))
    packed = [(a.packed, b.packed) for a, b in pairs if hasattr(a, "packed")]
    assert all(a is b for a, b in packed)
    fused = [(a, b) for a, b in pairs if "forward" in vars(a)]
    assert all(b.forward.args[0] is b.dense for a, b in fused)


def test_a_model_that_cannot_be_copied_takes_one_batch_at_a_time(folders, threads, monkeypatch):
    from trove_steps.encoders import cpu_layers

    texts = mixed_texts(20, seed=6)
    expected = encoder_of(folders, "bert").encode(texts).vectors

    def refuse(model, known):
        raise TypeError("no copies of this")

    threads(2)
    monkeypatch.setattr(cpu_layers, "deepcopy", refuse)
    encoder = encoder_of(folders, "bert")
    assert encoder.figures()["batches_at_once"] == 1
    np.testing.assert_allclose(encoder.encode(texts).vectors, expected, atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_company_never_changes_a_vector(kind, pure_pair, data):
    """Property: whatever subset in whatever order, with repetitions, every vector keeps its bits."""
    encoder, texts, vectors = pure_pair(kind)
    numbers = st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=40)
    chosen = data.draw(numbers)
    again = encoder.encode([texts[number] for number in chosen]).vectors
    assert np.array_equal(again.view(np.uint32), vectors[chosen].view(np.uint32))


@pytest.fixture(scope="module")
def pure_pair(folders):
    made = {}

    def pair(kind: str):
        if kind not in made:
            encoder, texts = encoder_of(folders, kind), mixed_texts(40, seed=5) + HARD_TEXTS
            made[kind] = encoder, texts, encoder.encode(texts).vectors
        return made[kind]

    return pair


def test_probe_notices_a_model_that_mixes_rows(folders):
    encoder = encoder_of(folders, "bert")
    forward = encoder.model.forward
    encoder.model.forward = lambda ids, mask: forward(ids, mask) + 1e-3 * forward(ids, mask).mean(0)
    assert not encoder.is_pure


def test_no_batch_mixes_padded_and_full_rows(folders):
    encoder = encoder_of(folders, "bert")
    seen = []
    forward = encoder.model.forward
    encoder.model.forward = lambda ids, mask: seen.append(mask.numpy().copy()) or forward(ids, mask)
    encoder.encode(mixed_texts(80) + ["x" * 80] * 9)
    assert any(mask.all() for mask in seen)
    assert all(mask.all() or not mask.all(axis=1).any() for mask in seen)
    shapes = {}
    for mask in seen:
        assert shapes.setdefault((mask.shape[1], bool(mask.all())), len(mask)) == len(mask)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Widths with more than one row of 256 tokens: 4, the widest one below 48, and 48 without padding.
        ({}, {(4, 64, False), (48, 5, False), (48, 5, True)}),
        ({"batch_size": 3}, {(4, 3, False), (48, 3, False), (48, 3, True)}),
        ({"tokens_per_batch": 64}, {(4, 16, False), (32, 2, False)}),
        ({"batch_size": 1}, set()),
    ],
)
def test_probe_tries_the_batches_that_texts_get(folders, options, expected):
    encoder = Encoder(folders("bert"), settings_of(), MAX_LEN, **options)
    seen = []
    forward = encoder.model.forward
    encoder.model.forward = lambda ids, mask: seen.append((ids, mask)) or forward(ids, mask)
    assert encoder.is_pure
    shapes = {(ids.shape[1], len(ids), bool(mask.all())) for ids, mask in seen}
    assert shapes == expected
    assert len(seen) == 2 * len(expected)
    for (among, among_mask), (alone, alone_mask) in zip(seen[::2], seen[1::2], strict=True):
        assert (alone == among[-1]).all()
        assert (alone_mask == among_mask[-1]).all()
        assert not (among == among[-1]).all(1).all(), "the company is another"


@pytest.mark.parametrize("where", ["width 4", "width 48", "full"])
def test_probe_notices_what_only_some_batches_mix(folders, where):
    encoder = encoder_of(folders, "bert")
    forward = encoder.model.forward

    def mixing(ids, mask):
        chosen = mask.all() if where == "full" else f"width {ids.shape[1]}" == where
        vectors = forward(ids, mask)
        return vectors + 1e-3 * vectors.mean(0) if chosen else vectors

    encoder.model.forward = mixing
    assert not encoder.is_pure


def test_probe_finds_the_budget_that_memory_holds(folders):
    """So that all vectors of a job are made in batches of one size."""
    import torch

    encoder = encoder_of(folders, "bert")
    forward = encoder.model.forward

    def small(ids, mask):
        if ids.numel() > 150:
            raise torch.OutOfMemoryError("no room")
        return forward(ids, mask)

    encoder.model.forward = small
    assert encoder.is_pure
    halvings = encoder.halvings
    encoder.encode(mixed_texts(60) + ["x" * 80] * 9)
    assert encoder.halvings == halvings > 0


def test_out_of_memory_halves_the_budget(folders):
    import torch

    notices = []
    encoder = Encoder(folders("bert"), settings_of(), MAX_LEN, notice=notices.append)
    texts = mixed_texts(40)
    expected = encoder.encode(texts).vectors
    forward = encoder.model.forward

    def small(ids, mask):
        if ids.numel() > 100:
            raise torch.OutOfMemoryError("no room")
        return forward(ids, mask)

    encoder.model.forward = small
    np.testing.assert_allclose(encoder.encode(texts).vectors, expected, atol=1e-6)
    assert "going on with" in notices[-1]
    assert encoder.tokens_per_batch <= 100
    assert encoder.halvings == len(notices) >= 1
    again = encoder.encode(texts).vectors
    assert np.array_equal(encoder.encode(texts[7:9]).vectors, again[7:9]), "pure at the new budget"
    encoder.model.forward = forward
    assert encoder.figures()["tokens_per_batch"] <= 100

    def allocator(ids, mask):
        if len(ids) > 1:
            raise RuntimeError(
                "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
            )
        return forward(ids, mask)

    encoder.model.forward = allocator
    np.testing.assert_allclose(encoder.encode(texts[:3]).vectors, expected[:3], atol=1e-6)
    encoder.model.forward = lambda ids, mask: small(torch.zeros(200), mask)
    with pytest.raises(TroveStepsError, match="does not hold one text"):
        encoder.encode(texts)


def test_another_number_of_threads_changes_the_last_bits_at_most():
    import torch

    folder = minilm()
    texts = HARD_TEXTS + mixed_texts(20)
    before = torch.get_num_threads()
    vectors = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            encoder = Encoder(folder, resolve_settings(folder, {}, "minilm"), 256)
            assert encoder.is_pure
            assert encoder.figures()["threads"] == threads
            vectors[threads] = encoder.encode(texts).vectors
    finally:
        torch.set_num_threads(before)
    print("components that differ:", (vectors[1] != vectors[2]).mean())
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6, rtol=0)


def test_without_filling_there_is_less_to_do(folders):
    filled, plain = encoder_of(folders, "bert"), encoder_of(folders, "bert")
    plain.fills = False
    texts = mixed_texts(30)
    with_copies, without = filled.encode(texts), plain.encode(texts)
    np.testing.assert_allclose(with_copies.vectors, without.vectors, atol=1e-6)
    assert without.tokens == with_copies.tokens
    assert without.padded_tokens < with_copies.padded_tokens


def test_texts_are_tokenized_while_others_are_encoded(folders):
    """On the clock: of a few hundred texts, only the first ones are waited for."""
    encoder = encoder_of(folders, "bert")
    encoder.encode(mixed_texts(300))  # what the first call takes is no matter here
    tokenize, forward = encoder.model.tokenize, encoder.model.forward
    tokenizing, forwards = [], []

    def slow(function, spans):
        def call(*arguments):
            began = time.perf_counter()
            time.sleep(0.03)
            result = function(*arguments)
            spans.append((began, time.perf_counter()))
            return result

        return call

    encoder.model.tokenize = slow(tokenize, tokenizing)
    encoder.model.forward = slow(forward, forwards)
    encoded = encoder.encode(mixed_texts(300))
    assert len(tokenizing) == 5
    for began, ended in tokenizing[2:]:
        assert any(began < stop and start < ended for start, stop in forwards)
    assert encoded.seconds["tokenize"] < sum(stop - start for start, stop in tokenizing) / 2
