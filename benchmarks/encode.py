"""Encoding side by side with sentence-transformers: seconds, padding share, equality of the vectors.

    python benchmarks/encode.py MODEL_FOLDER CORPUS.jsonl --quick
    python benchmarks/encode.py MODEL_FOLDER CORPUS.jsonl --texts 2000 --rounds 7 --no-filling
    python benchmarks/encode.py --random-bert-base --length 128 --texts 20000 --device cuda \
        --torch-dtype bfloat16 --peak-tflops 989

Texts are cut at random (log-normal) lengths, so that short and long ones are mixed; `--length 128` makes
all of them that long and needs no corpus. Each round runs our encoder and sentence-transformers (if it
is installed) at every batch size in turn, so that noise of the machine hits all alike; the ratios are
medians over rounds of (seconds of sentence-transformers / ours) within a round. Above 1 we are faster.
`--no-filling` also runs our encoder without filling up batches, which is what pure vectors cost.
The share of the device's rate compares the model's matrix products with one large matrix product in the
same number format, and with `--peak-tflops`, the chip's dense rate as its maker gives it (989 for bfloat16
on an H100 SXM). `--random-bert-base` is a BERT-base with random weights. `--cpu-seconds` compares processor
seconds, for a machine that is shared.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from trove_steps.encoder import Encoder
from trove_steps.models.settings_resolution import resolve_settings

LENGTHS = (6.2, 0.7)  # mean and deviation of the logarithm of a text's characters
WORD = "text"


def mixed_texts(path: Path, count: int) -> list[str]:
    chance = np.random.default_rng(0)
    texts = []
    with open(path, encoding="utf-8") as file:
        for line, length in zip(file, chance.lognormal(*LENGTHS, count), strict=False):
            row = json.loads(line)
            texts.append(f"{row.get('title') or ''} {row['text']}".strip()[: int(length)])
    return texts


def write_bert_base(folder: Path) -> Path:
    """Write a BERT-base of random weights, with a tokenizer that knows letters, digits and WORD."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*specials, WORD, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, **named
    ).save_pretrained(folder)
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


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
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started, result


def peers(folder: Path, texts: list[str], arguments: argparse.Namespace) -> dict:
    """Return name → function that encodes the texts with sentence-transformers; {} if it is absent."""
    if importlib.util.find_spec("sentence_transformers") is None:
        print("sentence-transformers is not installed: nothing to compare with")
        return {}
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, arguments.torch_dtype)}
    model = SentenceTransformer(str(folder), device=arguments.device, model_kwargs=options)
    model.encode(texts[:32])

    def encode(size: int):
        return lambda: model.encode(texts, batch_size=size, show_progress_bar=False)

    return {
        f"sentence-transformers, batch {size:3}": encode(size) for size in arguments.batch_sizes
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--random-bert-base", action="store_true", help="in place of MODEL_FOLDER")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--length", type=int, help="tokens of every text, instead of mixed lengths")
    parser.add_argument("--tokens-per-batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--torch-dtype", default="float32")
    parser.add_argument("--no-filling", action="store_true", help="what filling up batches costs")
    parser.add_argument("--peak-tflops", type=float, help="the chip's dense rate in --torch-dtype")
    parser.add_argument("--cpu-seconds", action="store_true")
    parser.add_argument("--quick", action="store_true", help="300 texts, 3 rounds, two batch sizes")
    arguments = parser.parse_args()
    if arguments.random_bert_base and arguments.model and not arguments.corpus:
        arguments.model, arguments.corpus = None, arguments.model  # the one that is needed
    if not (arguments.model or arguments.random_bert_base):
        parser.error("name a model's folder, or --random-bert-base")
    if not (arguments.corpus or arguments.length):
        parser.error("name a corpus, or the --length of made-up texts")
    if arguments.quick:
        arguments.texts, arguments.rounds, arguments.batch_sizes = 300, 3, [8, 32]
    return arguments


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.model or write_bert_base(Path(temporary))
        compare(folder, arguments)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    device, dtype = arguments.device, getattr(torch, arguments.torch_dtype)
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    if arguments.length:
        texts = [" ".join([WORD] * (arguments.length - 2))] * arguments.texts
    else:
        texts = mixed_texts(arguments.corpus, arguments.texts)
    settings = resolve_settings(folder, {"torch_dtype": arguments.torch_dtype}, "model")
    max_len = settings.passage_max_len
    ours = Encoder(folder, settings, max_len, device, arguments.tokens_per_batch)
    others = peers(folder, texts, arguments)
    if arguments.no_filling:
        unfilled = Encoder(folder, settings, max_len, device, arguments.tokens_per_batch)
        unfilled.fills = False
        others["ours without filling"] = lambda: unfilled.encode(texts)
    ours.encode(texts[:2000])
    seconds, results = [], {}
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(arguments.rounds):
        spent, encoded = timed(lambda: ours.encode(texts), clock, device)
        seconds.append(spent)
        for name, encode in others.items():
            theirs, results[name] = timed(encode, clock, device)
            ratios[name].append(theirs / spent)
    rate = encoded.tokens / statistics.median(seconds)
    print(f"{len(texts):,} texts, {encoded.tokens:,} tokens, {arguments.threads} threads, {device}")
    print(f"ours: {rate:,.0f} tokens/s, {1 - encoded.tokens / encoded.padded_tokens:.1%} padding")
    reached = operations(ours, encoded) / statistics.median(seconds)
    product = product_rate(dtype, device, 1024 if device == "cpu" else 8192)
    print(f"{reached / 1e12:.3g} TFLOP/s")
    print(f"  {reached / product:.0%} of a large {arguments.torch_dtype} matrix product")
    if arguments.peak_tflops:
        share = reached / 1e12 / arguments.peak_tflops
        print(f"  {share:.0%} of the chip's {arguments.peak_tflops:g} TFLOP/s")
    for name, values in ratios.items():
        spread = f"{min(values):.2f}–{max(values):.2f}"
        vectors = getattr(results[name], "vectors", results[name])
        furthest = np.abs(encoded.vectors - vectors).max()
        print(
            f"{name}: {statistics.median(values):.2f} × our time ({spread}), vectors differ by {furthest:.0e}"
        )
    print(f"bits independent of the company: {ours.is_pure}")


if __name__ == "__main__":
    main()
