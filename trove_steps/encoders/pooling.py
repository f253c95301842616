"""From token states to the vector of a text: pooling, and the Dense modules of sentence-transformers."""

import json
from pathlib import Path

import torch
from torch.nn import functional

from trove_steps.errors import TroveStepsError


def pool(states, mask, pooling: str):
    """Return one vector per row, float32[rows, dim], from float32[rows, width, dim] token states.

    `mask` is int64[rows, width], 1 for the row's own tokens, which are contiguous: padding is on one
    side, either. `weighted_mean` weights the i-th token by i (SGPT, arXiv 2202.08904).
    """
    every = torch.arange(len(states), device=states.device)
    first = mask.argmax(1)
    if pooling == "first_token":
        return states[every, first]
    if pooling == "last_token":
        return states[every, first + mask.sum(1) - 1]
    hidden = (mask == 0).unsqueeze(-1)
    if pooling == "max":
        return states.masked_fill(hidden, float("-inf")).amax(1)
    weights = {"mean": mask, "weighted_mean": mask * mask.cumsum(1)}[pooling].float()
    total = (states.masked_fill(hidden, 0.0) * weights.unsqueeze(-1)).sum(1)
    return total / weights.sum(1, keepdim=True)


def load_dense(folder: Path, device: str):
    """Return a Dense module of sentence-transformers as a function, float32: activation(x Wᵀ + b)."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    activation = _activation(config.get("activation_function", "torch.nn.Tanh"), folder)
    if (folder / "model.safetensors").exists():
        weights = load_file(folder / "model.safetensors")
    else:
        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    weights = {name: tensor.float().to(device) for name, tensor in weights.items()}

    def dense(vectors):
        linear = functional.linear(vectors, weights["linear.weight"], weights.get("linear.bias"))
        if not config.get("use_residual"):
            return activation(linear)
        if "residual.weight" in weights:
            vectors = functional.linear(vectors, weights["residual.weight"])
        return activation(linear) + vectors

    return dense


def _activation(name: str, folder: Path):
    found = getattr(torch.nn, name.rsplit(".", 1)[-1], None)
    if not (name.startswith("torch.nn.") and isinstance(found, type)):
        raise TroveStepsError(
            f"{folder / 'config.json'}: the activation {name} is not one of torch.nn"
        )
    return found()
