"""Judgments in JSON: one per line, grouped by query, nested, or implied by training data."""

import re

SCORE_NAMES = ("score", "relevance", "rel", "label")
POSITIVE_NAMES = (
    "positive_passages",
    "positive_ids",
    "positive_pids",
    "positives",
    "positive",
    "pos_ids",
    "pos",
)
NEGATIVE_NAMES = tuple(
    name.replace("positive", "negative").replace("pos", "neg") for name in POSITIVE_NAMES
)
# An id of a synthetic document: query, level of relevance, number.
LEVELLED_ID = re.compile(r"(.+)_l_(\d+)_d_\d+")
Triplets = tuple[list, list, list]
