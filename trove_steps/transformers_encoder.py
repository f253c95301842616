"""The default encoder: a folder as transformers or sentence-transformers saves it.

Its tokenizer, its model (an adapter is merged into its base), pooling, and Dense modules. Everything is
read from local files.
"""

import importlib.util
import inspect
import json
import warnings
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import chain
from pathlib import Path
from threading import local

import torch
from torch.nn import functional

from trove_steps.encoder import Tokens
from trove_steps.errors import TroveStepsError
from trove_steps.model_settings import (
    OFFSET_POSITIONS,
    ModelSettings,
    base_folder,
    lower_cases,
    read_modules,
    transformer_folder,
)

# Parts of a model that its last hidden states do not depend on: they may be missing from its file.
UNUSED_WEIGHTS = ("pooler.", "position_ids", "lm_head.", "classifier.", "cls.predictions")


SMALL_VOCABULARY = 1000  # tokens; a larger one can't be all special
NO_VOCABULARY = (
    "{} has no vocabulary of a tokenizer (tokenizer.json, vocab.txt, …): all texts would look alike; is the "
    "download complete, was the tokenizer saved beside the model?"
)

# Architectures that work without their own pooling layer.
IDLE_POOLER = {"bert", "roberta", "xlm-roberta", "camembert", "mpnet"}


class TransformersEncoder:
    """See `trove_steps.encoder.EncoderClass`."""

    def __init__(self, folder: Path, settings: ModelSettings, max_len: int, device: str):
        _be_quiet()
        self.settings, self.max_len = settings, max_len
        self.tokenizer = _load_tokenizer(folder, settings)
        self.backend = self.tokenizer.backend_tokenizer if self.tokenizer.is_fast else None
        if self.backend is not None:
            # Some packages carry a truncation and padding of their own, shorter than the model's.
            self.backend.no_truncation()
            self.backend.no_padding()
            if lower_cases(folder):
                _lower_case(self.backend)
        self.prefix, self.suffix = self._special_ids(folder)
        self.room = max_len - len(self.prefix) - len(self.suffix)
        if self.room < 1:
            raise TroveStepsError(
                f"a max_len of {max_len} leaves no room for text: the tokenizer adds "
                f"{max_len - self.room} special tokens"
            )
        self.model = _load_model(folder, settings, device)
        self.attention = getattr(self.model.config, "_attn_implementation", None)
        modules = read_modules(folder)
        paths = modules.dense if modules else ()
        self.dense = [_load_dense(folder / path, device) for path in paths]
        self.pad_id = self._pad_id()
        self.of_thread = local()  # .model, its own copy
        self.side_by_side = device == "cpu" and _can_be_copied(self.model)
        # With padding on the left, a text still begins at position 0. Models of OFFSET_POSITIONS find
        # that out by themselves.
        self.tells_positions = (
            settings.padding_side == "left"
            and "position_ids" in inspect.signature(self.model.forward).parameters
            and self.model.config.model_type not in OFFSET_POSITIONS
        )

    def tokenize(self, texts: list[str]) -> Tokens:
        """Return the token ids of texts: special tokens around content that is cut to fit max_len."""
        tokens = Tokens([])
        for content in self._content_ids(texts):
            over = len(content) - self.room
            if over > 0:
                left = self.settings.truncation_side == "left"
                content = content[over:] if left else content[: self.room]
            tokens.ids.append(self.prefix + content + self.suffix)
            tokens.cut.append(max(0, over))
        return tokens

    def forward(self, ids, mask):
        """Return the pooled vectors float32[rows, dim] of ids and mask, int64[rows, width]."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.tells_positions:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        pooled = self._model_of_thread()(**inputs)[0].float()
        if pooled.ndim == 3:  # DPR has pooled already
            pooled = pool(pooled, mask, self.settings.pooling)
        for dense in self.dense:
            pooled = dense(pooled)
        return pooled

    def _model_of_thread(self):
        """Return this thread's copy of the model, which shares the weights.

        Some models change themselves while they run: rotary angles that depend on the length, caches.
        """
        if not self.side_by_side:
            return self.model
        if not hasattr(self.of_thread, "model"):
            self.of_thread.model = copy_with_shared_weights(self.model)
        return self.of_thread.model

    def _content_ids(self, texts: list[str]) -> list[list[int]]:
        if self.backend is not None:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _special_ids(self, folder: Path) -> tuple[list[int], list[int]]:
        """Return the ids that stand before and after every text."""
        found = {
            ids
            for sample in ("a", "Two words", "and some more of them")
            if (ids := self._around(sample)) is not None
        }
        if len(found) != 1:
            raise TroveStepsError(
                f"the tokenizer in {folder} does not put the same special tokens around every text; "
                "write an encoder_class of your own for it"
            )
        prefix, suffix = map(list, found.pop())
        eos = self.tokenizer.eos_token_id
        if self.settings.append_eos and eos is None:
            raise TroveStepsError(
                f"append_eos: the tokenizer in {folder} has no end-of-sequence token; set append_eos: "
                "false"
            )
        if self.settings.append_eos and suffix[-1:] != [eos]:
            suffix.append(eos)
        return prefix, suffix

    def _around(self, sample: str) -> tuple[tuple, tuple] | None:
        content = self._content_ids([sample])[0]
        whole = self.tokenizer(sample, add_special_tokens=True)["input_ids"]
        for start in range(len(whole) - len(content) + 1):
            if content and whole[start : start + len(content)] == content:
                return tuple(whole[:start]), tuple(whole[start + len(content) :])
        return None

    def _pad_id(self) -> int:
        """Return the padding token, else the end-of-sequence token, else 0: it is masked anyway."""
        known = self.model.get_input_embeddings().num_embeddings
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((number for number in ids if number is not None and number < known), 0)


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


# --- loading ---------------------------------------------------------------------------------------


def _load_tokenizer(folder: Path, settings: ModelSettings):
    from transformers import AutoTokenizer

    own, base = transformer_folder(folder), base_folder(folder)
    has_own = any((own / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
    source = own if has_own or base is None else transformer_folder(base)
    with _told(f"the tokenizer in {source} can't be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(
            source, local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    if not knows_words(tokenizer):
        raise TroveStepsError(NO_VOCABULARY.format(source))
    return tokenizer


def knows_words(tokenizer) -> bool:
    """Tell whether a tokenizer has a vocabulary: of a folder without its files transformers makes one
    whose tokens are all special (or, for T5, all but one), to which all texts look alike."""
    if len(tokenizer) > SMALL_VOCABULARY:
        return True
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return len(tokenizer.get_vocab().keys() - special) > 1


def _load_model(folder: Path, settings: ModelSettings, device: str):
    _check_attention(settings, device)
    own, base = transformer_folder(folder), base_folder(folder)
    source = own if base is None else transformer_folder(base)
    quantized = settings.load_in_8bit or settings.load_in_4bit
    placed = {"device_map": {"": device}} if quantized else {}
    with _told(f"the model in {source} can't be loaded"):
        model, report = _auto_class(source, settings).from_pretrained(
            source,
            dtype=getattr(torch, settings.torch_dtype),
            attn_implementation=settings.attn_implementation,
            quantization_config=_quantization(settings, device) if quantized else None,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=settings.trust_remote_code,
            **placed,
        )
    _check_complete(report, source)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if base is not None:
        model = _merge_adapter(model, own)
    model.config.use_cache = False
    model = model.eval() if quantized else model.to(device).eval()
    if device == "cpu" and settings.torch_dtype == "float32":
        _pack_linears(model)
        _fuse_layers(model)
    if model.config.model_type in IDLE_POOLER and hasattr(model, "pooler"):
        model.pooler = None  # pooling is done here
    return model


def _auto_class(folder: Path, settings: ModelSettings):
    """Return AutoModel, or the class that loads only the encoder of an encoder-decoder."""
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    config = AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=settings.trust_remote_code
    )
    if config.model_type == "dpr":
        return _dpr_class(config, folder, settings)
    # Not config.is_encoder_decoder: a T5 encoder that was saved on its own says false there.
    encoder = AutoModelForTextEncoding._model_mapping.get(type(config), None)
    half = encoder is not None and encoder.__name__.endswith("EncoderModel")
    return AutoModelForTextEncoding if half else AutoModel


def _dpr_class(config, folder: Path, settings: ModelSettings):
    """Return the class of a DPR encoder: one for questions, one for passages, both of one config type."""
    import transformers

    name = (config.architectures or ["DPRQuestionEncoder"])[0]
    if name not in ("DPRQuestionEncoder", "DPRContextEncoder"):
        raise TroveStepsError(f"{folder}: a {name} makes no vectors; name a DPR encoder")
    if settings.pooling != "first_token":
        raise TroveStepsError(
            f"{folder}: a DPR encoder pools the first token; set pooling: first_token"
        )
    return getattr(transformers, name)


def _check_complete(report: dict, folder: Path) -> None:
    """Refuse a model that has random numbers where its file lacks weights."""
    lacking = [
        name for name in report["missing_keys"] if not any(part in name for part in UNUSED_WEIGHTS)
    ]
    lacking += [str(key[0]) for key in report.get("mismatched_keys") or ()]
    if lacking:
        raise TroveStepsError(
            f"the weights in {folder} do not fit its config.json: {len(lacking)} are missing or of "
            f"another shape, {sorted(lacking)[0]} for one; fetch the model again"
        )


def _merge_adapter(model, folder: Path):
    """Return the base model with the adapter's weights added to its own."""
    if importlib.util.find_spec("peft") is None:
        raise TroveStepsError(f"{folder} is a PEFT adapter: pip install peft")
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    with _told(f"the adapter in {folder} can't be loaded"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between libraries; the report below counts
        config = PeftConfig.from_pretrained(folder)
        # The adapter may be of a model with a head (CAUSAL_LM, SEQ_CLS): vectors are made without it.
        config.inference_mode, config.task_type, config.modules_to_save = True, None, None
        adapted = get_peft_model(model, config)
        weights = _without_head(load_peft_weights(str(folder), device="cpu"), model, adapted)
        report = set_peft_model_state_dict(adapted, weights)
    lacking = [name for name in report.missing_keys if adapted.prefix in name]
    if lacking or report.unexpected_keys:
        example = (lacking or report.unexpected_keys)[0]
        raise TroveStepsError(
            f"the adapter in {folder} does not fit its base model: {example}; is that the model that it "
            "was trained on?"
        )
    return adapted.merge_and_unload()


def _without_head(weights: dict, model, adapted) -> dict:
    """Name an adapter's weights as in the model without a head, and leave those of the head out."""
    inner = f"base_model.model.{model.base_model_prefix}."
    if not any(name.startswith(inner) for name in weights):
        return weights
    if any(name.startswith(inner) for name in adapted.state_dict()):
        return weights
    return {
        "base_model.model." + name.removeprefix(inner): weight
        for name, weight in weights.items()
        if name.startswith(inner)
    }


def _check_attention(settings: ModelSettings, device: str) -> None:
    if settings.attn_implementation != "flash_attention_2":
        return
    option = "attn_implementation: flash_attention_2"
    if not device.startswith("cuda"):
        raise TroveStepsError(f"{option} needs a GPU, and this process has none; set sdpa")
    if settings.torch_dtype == "float32":
        raise TroveStepsError(
            f"{option} works in half precision only; set torch_dtype: bfloat16 or float16, or "
            "attn_implementation: sdpa"
        )


def _quantization(settings: ModelSettings, device: str):
    option = "load_in_8bit" if settings.load_in_8bit else "load_in_4bit"
    if not device.startswith("cuda"):
        raise TroveStepsError(f"{option}: needs a GPU, and this process has none; leave it out")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TroveStepsError(f"{option}: needs the package bitsandbytes; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_8bit=settings.load_in_8bit,
        load_in_4bit=settings.load_in_4bit,
        bnb_4bit_quant_type=settings.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=settings.use_bnb_nested_quant,
        bnb_4bit_compute_dtype=getattr(torch, settings.torch_dtype),
    )


def _load_dense(folder: Path, device: str):
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


def _lower_case(backend) -> None:
    from tokenizers.normalizers import Lowercase, Sequence

    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Sequence([Lowercase(), *own])


# --- faster on CPUs --------------------------------------------------------------------------------


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


def _pack_linears(model) -> None:
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


def _can_be_copied(model: torch.nn.Module) -> bool:
    try:
        copy_with_shared_weights(model)
    except Exception:  # a model may bring code of its own, which may raise anything
        return False
    return True


def _fuse_layers(model) -> None:
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


# --- messages --------------------------------------------------------------------------------------


def _be_quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def _told(what: str):
    """Turn what a library raises while loading into one line for the user."""
    try:
        yield
    except TroveStepsError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise TroveStepsError(
                f"{what}: it brings code of its own. Read the *.py files in its folder, then set "
                "trust_remote_code: true"
            ) from error
        lines = str(error).strip().splitlines()
        raise TroveStepsError(f"{what}: {lines[0] if lines else type(error).__name__}") from error
