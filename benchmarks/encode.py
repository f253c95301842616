"""Encoding side by side with sentence-transformers: seconds, padding share, equality of the vectors.

    python benchmarks/encode.py MODEL_FOLDER CORPUS.jsonl --quick
    python benchmarks/encode.py MODEL_FOLDER CORPUS.jsonl --texts 2000 --rounds 7 --device cuda

Texts are cut at random (log-normal) lengths, so that short and long ones are mixed. Each round runs our
encoder and sentence-transformers at every batch size in turn, so that noise of the machine hits all
alike; the ratios are medians over rounds of (seconds of sentence-transformers / ours) within a round.
Above 1 we are faster. The share of the device's rate compares the model's matrix products with one large
matrix product in the same number format. `--length 128` makes all texts that long. `--cpu-seconds`
compares processor seconds, for a machine that is shared.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from trove_steps.encoder import Encoder
from trove_steps.model_settings import resolve_settings

LENGTHS = (6.2, 0.7)  # mean and deviation of the logarithm of a text's characters


def mixed_texts(path: Path, count: int) -> list[str]:
    chance = np.random.default_rng(0)
    texts = []
    with open(path, encoding="utf-8") as file:
        for line, length in zip(file, chance.lognormal(*LENGTHS, count), strict=False):
            row = json.loads(line)
            texts.append(f"{row.get('title') or ''} {row['text']}".strip()[: int(length)])
    return texts


def product_rate(dtype, device: str, size: int) -> float:
    """Return the FLOP/s of a square matrix product, the best of five."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = [timed(lambda: left @ right, time.perf_counter, device)[0] for _ in range(6)][1:]
    return 2 * size**3 / min(seconds)


def operations(encoder: Encoder, encoded) -> float:
    """Return the FLOP that texts take, padding and attention scores left out."""
    model = encoder.model.model
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    return 2.0 * (sum(p.numel() for p in model.parameters()) - tables) * encoded.tokens


def timed(encode, clock, device: str):
    if device != "cpu":
        torch.cuda.synchronize()
    started = clock()
    result = encode()
    return clock() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--length", type=int, help="tokens of every text, instead of mixed lengths")
    parser.add_argument("--tokens-per-batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--torch-dtype", default="float32")
    parser.add_argument("--cpu-seconds", action="store_true")
    parser.add_argument("--quick", action="store_true", help="300 texts, 3 rounds, two batch sizes")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.texts, arguments.rounds, arguments.batch_sizes = 300, 3, [8, 32]
    torch.set_num_threads(arguments.threads)
    from sentence_transformers import SentenceTransformer

    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    device = arguments.device
    texts = mixed_texts(arguments.corpus, arguments.texts)
    given = {"torch_dtype": arguments.torch_dtype}
    settings = resolve_settings(arguments.model, given, "model")
    if arguments.length:
        texts = [" ".join(["text"] * (arguments.length - 2))] * arguments.texts
    ours = Encoder(
        arguments.model, settings, settings.passage_max_len, device, arguments.tokens_per_batch
    )
    options = {"dtype": getattr(torch, arguments.torch_dtype)}
    theirs = SentenceTransformer(str(arguments.model), device=device, model_kwargs=options)

    def peer(size: int):
        return lambda: theirs.encode(texts, batch_size=size, show_progress_bar=False)

    ours.encode(texts[:32])
    theirs.encode(texts[:32])
    ratios: dict[int, list[float]] = {size: [] for size in arguments.batch_sizes}
    seconds = []
    for _ in range(arguments.rounds):
        spent, encoded = timed(lambda: ours.encode(texts), clock, device)
        seconds.append(spent)
        for size in arguments.batch_sizes:
            peers, vectors = timed(peer(size), clock, device)
            ratios[size].append(peers / spent)
    rate = encoded.tokens / statistics.median(seconds)
    print(f"{len(texts):,} texts, {encoded.tokens:,} tokens, {arguments.threads} threads, {device}")
    print(f"ours: {rate:,.0f} tokens/s, {1 - encoded.tokens / encoded.padded_tokens:.1%} padding")
    dtype = getattr(torch, arguments.torch_dtype)
    peak = product_rate(dtype, device, 1024 if device == "cpu" else 8192)
    reached = operations(ours, encoded) / statistics.median(seconds)
    print(
        f"{reached / 1e12:.3g} TFLOP/s, {reached / peak:.0%} of a large {arguments.torch_dtype} matrix "
        f"product's {peak / 1e12:.3g}"
    )
    print(
        f"largest difference of a vector's components: {np.abs(encoded.vectors - vectors).max():.1e}"
    )
    for size, values in ratios.items():
        print(f"sentence-transformers, batch {size:3}: {statistics.median(values):.2f} × our time")
    print(f"bits independent of the company: {ours.is_pure}")


if __name__ == "__main__":
    main()
