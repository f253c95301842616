"""The statistics and the page of the report."""

import base64
import gzip
import json
import random
import re

import numpy as np
import pytest
from scipy import stats

from trove_steps.reporting.collect import POINTS
from trove_steps.reporting.page import render
from trove_steps.reporting.statistics import holm, intervals, p_values

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
    differences = CHANCE.normal([0.0, 0.08, 0.4], 0.5, (60, 3))
    for column, p in enumerate(p_values(differences)):
        other = stats.permutation_test(
            (differences[:, column],), np.mean, permutation_type="samples", n_resamples=5000, rng=1
        ).pvalue
        assert p == pytest.approx(other, abs=0.03)


def test_equal_models_are_not_told_apart():
    assert p_values(np.zeros((20, 1))) == [1.0]


def test_holm():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


def unpacked(page: str) -> dict:
    """Return the data of a page."""
    (packed,) = re.findall(r'id="data">([^<]*)<', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def large_content(models: int = 10, datasets: int = 15) -> dict:
    """A content of the size that the largest limits of `collect` allow, of random words."""
    chance, points = random.Random(0), POINTS // datasets
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 11))) for _ in range(20_000)]

    def text(length: int) -> str:
        return " ".join(chance.choices(words, k=length // 7))[:length]

    metrics = [
        f"{m}_{k}" for m in ("ndcg_cut", "map_cut", "recall", "P", "mrr_cut") for k in range(6)
    ]

    def shown() -> dict:
        doc = chance.randrange(1_000_000)
        return {"doc": doc, "rank": 3, "score": round(chance.random(), 4), "label": None}

    def cell() -> dict:
        figures = {name: chance.random() for name in metrics}
        worst = [
            {"id": str(n), "text": text(300), "value": 0.0, "top": [shown() for _ in range(5)],
             "judged": [shown() for _ in range(5)], "relevant": 3, "of": 5, "depth": 100}
            for n in range(5)
        ]  # fmt: skip
        samples = [
            {"query": "q", "text": text(160), "negative": shown(), "positive": shown()}
            for _ in range(20)
        ]
        return {
            **dict.fromkeys(("metrics", "low", "high", "p"), figures),
            "worst": worst,
            "mining": {"samples": samples},
        }

    def dataset(name: str) -> dict:
        cells = {f"model-{n}": cell() for n in range(models)}
        numbers = [
            one["doc"]
            for content in cells.values()
            for query in content["worst"]
            for one in (*query["top"], *query["judged"])
        ] + [
            sample[side]["doc"]
            for content in cells.values()
            for sample in content["mining"]["samples"]
            for side in ("negative", "positive")
        ]
        chosen = {
            "ids": [str(n) for n in range(points)],
            "texts": [text(110) for _ in range(points)],
            "values": {m: [round(chance.random(), 3) for _ in range(points)] for m in cells},
        }
        texts = {n: [str(n), text(160)] for n in numbers}
        return {"name": name, "cells": cells, "points": chosen, "texts": texts}

    return {"datasets": [dataset(f"set-{n}") for n in range(datasets)]}


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
