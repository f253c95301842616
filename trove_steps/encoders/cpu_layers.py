"""A model on a CPU: faster layers for float32, and copies for threads that share its weights."""

import inspect
from copy import deepcopy
from functools import partial
from itertools import chain

import torch


class PackedLinear(torch.nn.Module):
    """A linear layer on a CPU, float32, with weights in the order that oneDNN wants.

    1.2 to 1.5 times as fast as torch's own for batches of 96 to 1,024 tokens (AVX-512), and small
    batches lose nothing. `weight` keeps shape and dtype for who asks, but no numbers.
    """

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.bias = linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.weight = torch.nn.Parameter(torch.empty(1, 1).expand(linear.weight.shape), False)

    def forward(self, states):
        return torch.ops.mkldnn._linear_pointwise(states, self.packed, self.bias, "none", [], "")


def pack_linears(model: torch.nn.Module) -> None:
    """Replace the linear layers of a model if this build of torch can; its own are right everywhere."""
    try:
        with torch.inference_mode():
            PackedLinear(torch.nn.Linear(8, 8))(torch.zeros(2, 8))
    except (AttributeError, NotImplementedError, RuntimeError):
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child.weight.dtype == torch.float32:
                setattr(parent, name, PackedLinear(child))


def copy_with_shared_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a model that has the same tensors as weights and masks, which may be large."""
    packed = (m.packed for m in model.modules() if isinstance(m, PackedLinear))
    masks = (buffer for buffer in model.buffers() if buffer.dtype == torch.bool)
    shared = chain(model.parameters(), packed, masks)
    return deepcopy(model, {id(tensor): tensor for tensor in shared})


def can_be_copied(model: torch.nn.Module) -> bool:
    """Tell whether `copy_with_shared_weights` works for a model."""
    try:
        copy_with_shared_weights(model)
    except Exception:  # a model may bring code of its own, which may raise anything
        return False
    return True


def fuse_layers(model: torch.nn.Module) -> None:
    """Let linear layers do what follows them, GELU or a sum, where the model is built as BERT is.

    That saves reading and writing the largest arrays once more. A layer is changed only if that
    leaves every bit of a trial as it was.
    """
    for module in model.modules():
        dense = getattr(module, "dense", None)
        if not isinstance(dense, PackedLinear):
            continue
        parameters = list(inspect.signature(module.forward).parameters)
        if hasattr(module, "intermediate_act_fn") and parameters == ["hidden_states"]:
            fused, inputs = partial(_linear_gelu, dense), 1
        elif hasattr(module, "LayerNorm") and parameters == ["hidden_states", "input_tensor"]:
            fused, inputs = partial(_linear_sum_norm, dense, module.LayerNorm), 2
        else:
            continue
        width, height = dense.weight.shape[1], dense.weight.shape[0]
        chance = torch.Generator().manual_seed(0)
        trial = [torch.randn(3, 7, size, generator=chance) for size in (width, height)[:inputs]]
        try:
            with torch.inference_mode():
                same = torch.equal(fused(*trial), module(*trial))
        except (AttributeError, RuntimeError):
            same = False
        if same:
            module.forward = fused


def _linear_gelu(dense: PackedLinear, hidden_states):
    return torch.ops.mkldnn._linear_pointwise(
        hidden_states, dense.packed, dense.bias, "gelu", [], "none"
    )


def _linear_sum_norm(dense: PackedLinear, norm, hidden_states, input_tensor):
    total = torch.ops.mkldnn._linear_pointwise.binary(
        hidden_states, input_tensor, dense.packed, dense.bias, "add"
    )
    return norm(total)
