"""What mining finds: the negatives, why they were taken, and what became of the other results."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trove_steps.ranking import Ranking


@dataclass(frozen=True)
class Mined:
    """The negatives of each query, best first.

    Attributes:
        negatives: the mined queries and, of their results, those that were kept. The scores are
            the teacher's if there is one.
        audit: a row per negative: ``query_id``, ``doc_id``, ``rank`` (from 1, in the search),
            ``score``, ``gap`` (score of the weakest positive minus the score that was compared
            with it), ``near_twin_cosine`` (largest cosine with a positive), ``teacher_score`` and
            ``text_twin`` (it has the text of a positive); null where unknown.
        funnel: a row per mined query: ``query_id``, ``candidates`` (results looked at) =
            ``annotated`` + ``twins`` + ``no_positive`` (margins without a positive to measure from)
            + ``margin`` + ``score`` + ``window`` + ``unused`` + ``kept``, and ``missing`` (asked
            for but not found).
        counts: sums of the funnel, ``num_queries`` searched, ``num_mined_queries`` and
            ``num_short_queries`` (those with ``missing`` > 0).
        queries: int64[q], where the mined queries are in the ranking.
    """

    negatives: Ranking
    audit: pa.Table
    funnel: pa.Table
    counts: dict[str, int]
    queries: np.ndarray
