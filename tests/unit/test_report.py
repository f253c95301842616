"""The statistics and the page of the report."""

import base64
import gzip
import json
import random
import re
import time

import numpy as np
import pytest
from scipy import stats

from trove_steps.reporting import statistics
from trove_steps.reporting.cell import SIDES, SNIPPET
from trove_steps.reporting.collect import POINTS
from trove_steps.reporting.page import render
from trove_steps.reporting.queries import BINS, QUERY_SNIPPET
from trove_steps.reporting.statistics import intervals, p_values, pair_p_values
from trove_steps.versions import versions

CHANCE = np.random.default_rng(7)


def test_intervals_are_those_of_scipy():
    values = CHANCE.beta(0.5, 0.7, (150, 2))
    low, high = intervals(values)
    for column in range(2):
        other = stats.bootstrap(
            (values[:, column],), np.mean, method="percentile", n_resamples=4000, rng=1
        ).confidence_interval
        assert low[column] == pytest.approx(other.low, abs=0.01)
        assert high[column] == pytest.approx(other.high, abs=0.01)


def test_p_values_are_those_of_scipy():
    differences = CHANCE.normal([[0.0], [0.08], [0.4]], 0.5, (3, 60))
    for row, p in zip(differences, p_values(differences), strict=True):
        other = stats.permutation_test(
            (row,), np.mean, permutation_type="samples", n_resamples=5000, rng=1
        ).pvalue
        assert p == pytest.approx(other, abs=0.03)


def test_equal_models_are_not_told_apart(monkeypatch):
    assert p_values(np.zeros((1, 20))) == [1.0]
    monkeypatch.setattr(statistics, "MANY", 10)
    assert p_values(np.zeros((1, 20))) == [1.0]


def test_many_queries_need_no_resampling(monkeypatch):
    """What the normal distribution says is what resampling says."""
    values = CHANCE.beta(0.5, 0.7, (3000, 2))
    differences = CHANCE.normal([[0.0], [0.01]], 0.5, (2, 3000))
    resampled, p = intervals(values), p_values(differences)
    monkeypatch.setattr(statistics, "MANY", 2999)
    np.testing.assert_allclose(intervals(values), resampled, atol=0.001)
    np.testing.assert_allclose(p_values(differences), p, atol=0.03)


def test_a_million_queries_take_seconds():
    started = time.monotonic()
    intervals(CHANCE.random((1_000_000, 25), np.float32))
    p_values(CHANCE.random((45, 1_000_000), np.float32))
    assert time.monotonic() - started < 30


def test_pairs_of_models_are_one_family():
    """As Holm's method says of scipy's p-values of all pairs."""
    values = {
        name: CHANCE.normal(mean, 0.4, 80) for name, mean in (("b", 0), ("c", 0.1), ("a", 0.5))
    }
    found = pair_p_values(values)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    single = {pair: p_values((values[pair[1]] - values[pair[0]])[None])[0] for pair in found}
    least, middle, largest = sorted(single.values())
    assert sorted(found.values()) == pytest.approx(
        [3 * least, max(3 * least, 2 * middle), max(3 * least, 2 * middle, largest)]
    )


def unpacked(page: str) -> dict:
    """Return the data of a page."""
    (packed,) = re.findall(r'id="data">([^<]*)<', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


CUTS = (1, 3, 5, 10, 100)
METRICS = [f"{m}_{k}" for m in ("ndcg_cut", "map_cut", "recall", "P", "mrr_cut") for k in CUTS]
COUNTS = (
    "num_judged",
    "num_without_judgments",
    "num_without_results",
    "num_judgments_not_in_corpus",
)
STAGES = ("candidates", "annotated", "twins", "no_positive", "margin", "score", "window", "unused",
          "kept", "missing")  # fmt: skip


class LargeContent:
    """A content as `collect` makes it, of the size that its largest limits allow: random words and hashes."""

    def __init__(self, models: int, datasets: int):
        self.chance = random.Random(0)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = [
            "".join(self.chance.choices(letters, k=self.chance.randint(2, 11)))
            for _ in range(20_000)
        ]
        self.models = [f"model-{n}" for n in range(models)]
        self.points = POINTS // datasets
        self.datasets = [self.dataset(f"set-{n}") for n in range(datasets)]

    def content(self) -> dict:
        return {
            "metrics": METRICS,
            "main": "ndcg_cut_10",
            "models": self.models,
            "datasets": self.datasets,
            "packages": versions(),
        }

    def text(self, length: int) -> str:
        return " ".join(self.chance.choices(self.words, k=length // 7))[:length]

    def hash(self, digits: int = 32) -> str:
        return f"{self.chance.getrandbits(4 * digits):0{digits}x}"

    def figures(self, digits: int = 17) -> dict:
        return {name: round(self.chance.random(), digits) for name in METRICS}

    def counts(self, n: int = BINS) -> list[int]:
        return [self.chance.randrange(100_000) for _ in range(n)]

    def shown(self, texts: dict, **more) -> dict:
        doc = self.chance.randrange(1_000_000)
        texts[doc] = [f"document-{doc}", self.text(SNIPPET)]
        score = round(self.chance.random(), 4)
        return {"doc": doc, "rank": self.chance.randint(1, 100), "score": score, "label": 1, **more}

    def dataset(self, name: str) -> dict:
        texts: dict = {}
        values = {
            m: [round(self.chance.random(), 3) for _ in range(self.points)] for m in self.models
        }
        return {
            "name": name,
            "queries": 6980,
            "documents": 8_841_823,
            "threshold": 1,
            "points": {
                "of": 6980,
                "ids": [str(self.chance.randrange(10**7)) for _ in range(self.points)],
                "texts": [self.text(QUERY_SNIPPET) for _ in range(self.points)],
                "values": values,
                "wins": {a: {b: self.chance.randrange(3000) for b in values} for a in values},
            },
            "check": [
                {
                    "kind": "empty",
                    "count": 3,
                    "message": self.text(110),
                    "examples": ["a", "b", "c"],
                }
                for _ in range(4)
            ],
            "cells": {model: self.cell(texts) for model in self.models},
            "texts": texts,
        }

    def cell(self, texts: dict) -> dict:
        return {
            "metrics": self.figures(),
            **{part: self.figures(5) for part in ("low", "high", "p")},
            "worst": [
                {
                    "id": str(self.chance.randrange(10**7)),
                    "text": self.text(2 * SNIPPET),
                    "value": self.chance.random(),
                    "top": [self.shown(texts) for _ in range(5)],
                    "judged": [self.shown(texts) for _ in range(5)],
                    "relevant": 3,
                    "of": 5,
                    "depth": 100,
                }
                for _ in range(5)
            ],
            "scores": {
                "ends": [self.chance.random(), 1 + self.chance.random()],
                "counts": {
                    kind: self.counts()
                    for kind in ("relevant", "judged, not relevant", "not judged")
                },
            },
            "mining": {
                "queries": 6980,
                "funnel": dict(zip(STAGES, self.counts(len(STAGES)), strict=True)),
                "judge": "the search",
                "ranks": {"width": 5, "counts": self.counts()},
                "margins": {
                    "ends": [-self.chance.random(), 1.0],
                    "counts": self.counts(),
                    "above": 0.2,
                },
                "samples": [
                    {
                        "query": str(self.chance.randrange(10**7)),
                        "text": self.text(SNIPPET),
                        "negative": self.shown(texts, teacher_score=self.chance.random()),
                        "positive": self.shown(texts),
                    }
                    for _ in range(20)
                ],
            },
            "cost": {
                "encode": {side: self.encoding() for side in ("queries", "corpus")},
                "seconds": {"search": self.chance.random(), "score": 3.21, "mine": 4.32},
                "dim": 768,
                "bytes": self.chance.choice([96, 768, 3072]),
            },
            "warnings": {
                "cut": {"queries": [12, 6980], "corpus": [self.chance.randrange(10**6), 8_841_823]},
                "counts": dict(zip(COUNTS, self.counts(len(COUNTS)), strict=True)),
                "documents": 8_841_823,
                "repeated": self.chance.randrange(10**5),
                "tied_queries": 17,
                "queries": 6980,
                "missing": [],
                "ties": {"ndcg_cut_10": [self.chance.random(), self.chance.random()]},
            },
            "provenance": {
                "keys": {
                    f"{side} {kind}": self.hash() for side in SIDES for kind in ("encoder", "texts")
                }
                | {"search": self.hash()},
                "recipes": {
                    side: {
                        "encoder": {"model_files": {f"file-{n}": self.hash(64) for n in range(12)}},
                        "texts": {
                            "files": [self.hash(64)],
                            "kind": side,
                            "template": "{title} {text}",
                        },
                    }
                    for side in SIDES
                }
                | {"evaluation": {"measures": METRICS, "qrels": [self.hash(64)]}},
            },
        }

    def encoding(self) -> dict:
        return {
            "rows": 8_841_823,
            "reused": self.chance.randrange(10**6),
            "encoded": self.chance.randrange(10**6),
            "tokens": self.chance.randrange(10**9),
            "rate": self.chance.random() * 10**5,
            "seconds": self.chance.random() * 10**4,
            "jobs": 1,
            "versions": versions(),
        }


def large_content(models: int = 10, datasets: int = 15) -> dict:
    return LargeContent(models, datasets).content()


def test_ten_models_on_fifteen_data_sets_fit_into_five_megabytes():
    content = large_content()
    page = render(content)
    assert len(page.encode()) < 5_000_000
    assert len(unpacked(page)["datasets"]) == 15


def test_texts_are_never_taken_for_html():
    content = {"datasets": [], "note": "</script><script>alert(1)</script>"}
    page = render(content)
    assert "alert(1)" not in page
    assert unpacked(page) == content


def test_nothing_is_fetched():
    page = render({"datasets": []})
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert page.count("<script") == page.count("</script>") == 3
