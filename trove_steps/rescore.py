"""Step: let a cross-encoder score the candidates and the positives of every query.

Scores are kept by the content of the pairs, and so are those of a run that was killed: a pair that was
scored once is not scored again. Mining reads them and needs no model.
"""

import time
from pathlib import Path

import numpy as np

from trove_steps.arguments import run_step, step_parser
from trove_steps.distributed import Comm, communicator, pick_device, share_cpu_threads
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.fingerprint import Fingerprints
from trove_steps.keys import TEXT_KEY_BYTES, cross_encoder_recipe, recipe_key
from trove_steps.mining.inputs import (
    MiningInputs,
    add_candidate_arguments,
    read_inputs,
    read_texts,
)
from trove_steps.mining.pair_scores import PairStore, pair_key, write_pair_scores
from trove_steps.mining.rules import mine
from trove_steps.mining.selection import Selection
from trove_steps.models.files import model_files
from trove_steps.progress import SharedBar, report

PAIRS_PER_CLAIM = 256
SECONDS_PER_SHARD = 20.0  # of work: what a kill can lose


def candidate_pairs(inputs: MiningInputs, arguments) -> tuple[np.ndarray, np.ndarray]:
    """List every pair that mining will ask a teacher about: query and document, int64, ascending.

    Mining itself says so, with a teacher that only listens.
    """
    asked = []

    def listen(queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
        asked.append(queries * len(inputs.ranking.doc_ids) + docs)
        return np.zeros(len(queries))

    mine(
        inputs.ranking,
        inputs.qrels,
        arguments.search_topk,
        not arguments.keep_annotated,
        Selection(near_twin_cosine=arguments.near_twin_cosine),
        teacher=listen,
        **inputs.knowledge,
    )
    pairs = np.unique(np.concatenate([np.empty(0, np.int64), *asked]))
    return np.divmod(pairs, len(inputs.ranking.doc_ids))


def run(arguments, comm: Comm) -> None:
    """Score the pairs that are unknown; on rank 0, write all scores and their manifest."""
    started = time.perf_counter()
    inputs = read_inputs(arguments)
    queries, docs = candidate_pairs(inputs, arguments)
    asked = read_texts(inputs.queries, np.unique(queries))
    found = read_texts(inputs.documents, np.unique(docs))
    questions = [asked.joined(row) for row in queries.tolist()]
    passages = [found.joined(row) for row in docs.tolist()]
    keys = b"".join(map(pair_key, questions, passages))
    keys = np.frombuffer(keys, np.uint8).reshape(-1, TEXT_KEY_BYTES)

    recipe = _recipe(arguments)
    store = PairStore(arguments.encoding_cache_dir, recipe_key(recipe))
    planned = arguments.output.parent
    if planned.parent.name == "pair_scores" and planned.name != store.encoder:
        raise TroveStepsError(
            f"these files belong to the cross-encoder {store.encoder}, not to {arguments.output}: start "
            "the workflow again"
        )
    unknown = np.isnan(store.read(keys))
    comm.barrier()  # before anyone adds to the store
    missing = int(unknown.sum())
    if missing:
        share_cpu_threads()
        _score_unknown(arguments, store, keys, unknown, questions, passages, comm)
    if comm.rank != 0:
        return
    store.write_recipe(recipe)
    scores = store.read(keys)
    if np.isnan(scores).any():
        raise TroveStepsError(
            f"{int(np.isnan(scores).sum())} scores are not in {store.directory} after scoring: was it "
            "deleted meanwhile? Run again; what is there is kept"
        )
    write_pair_scores(
        arguments.output,
        queries,
        docs,
        scores,
        cross_encoder=store.encoder,
        search=read_json(arguments.search)["recipe"],
        documents=len(inputs.ranking.doc_ids),
    )
    report(
        f"rescore: {len(keys):,} pairs, {len(keys) - missing:,} reused, {missing:,} scored · "
        f"{time.perf_counter() - started:.1f} s"
    )


def _recipe(arguments) -> dict:
    fingerprints = Fingerprints(arguments.encoding_cache_dir)
    paths = model_files(arguments.cross_encoder)
    files = {name: fingerprints.file(path) for name, path in paths.items()}
    return cross_encoder_recipe(files, arguments.cross_encoder_max_len)


def _score_unknown(arguments, store, keys, unknown, questions, passages, comm: Comm) -> None:
    """Claim portions of the pairs, longest first, until none is left; write shards now and then."""
    from trove_steps.encoders.cross_encoder import CrossEncoder

    model = CrossEncoder(arguments.cross_encoder, arguments.cross_encoder_max_len, pick_device())
    lengths = np.array([len(q) + len(p) for q, p in zip(questions, passages, strict=True)])
    order = np.lexsort((np.arange(len(lengths)), -lengths))
    order = order[unknown[order]]
    bar = SharedBar(comm, int(lengths[order].sum()), "rescore", "characters")
    done, scores, began = [], [], time.perf_counter()

    def keep() -> None:
        if done:
            places = np.concatenate(done)
            store.write(keys[places], np.concatenate(scores)[:, None])
            done.clear()
            scores.clear()

    while (first := comm.claim("pairs", PAIRS_PER_CLAIM)) < len(order):
        places = order[first : first + PAIRS_PER_CLAIM]
        part = model.score([questions[i] for i in places], [passages[i] for i in places])
        if not np.isfinite(part).all():
            raise TroveStepsError("the cross-encoder gives NaN or infinity: the model overflows")
        done.append(places)
        scores.append(part)
        if time.perf_counter() - began > SECONDS_PER_SHARD:
            keep()
            began = time.perf_counter()
        bar.add(int(lengths[places].sum()))
    keep()
    comm.barrier()
    bar.close()


def main() -> None:
    parser = step_parser("rescore", __doc__)
    add_candidate_arguments(parser)
    parser.add_argument(
        "--cross-encoder", type=Path, required=True, metavar="FOLDER", help="the model"
    )
    parser.add_argument(
        "--cross-encoder-max-len", type=int, default=512, help="most tokens of a pair"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the manifest to be written"
    )
    arguments = parser.parse_args()
    with communicator() as comm:
        run(arguments, comm)


if __name__ == "__main__":
    run_step(main)
