"""Loading a tokenizer and a model from a folder as transformers saves it; an adapter is merged into its base.

What libraries would load wrongly without a word, or refuse with a traceback, becomes a line for the user.
"""

import importlib.util
import warnings
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import torch

from trove_steps.arguments import shown_path
from trove_steps.encoders.cpu_layers import fuse_layers, pack_linears
from trove_steps.errors import TroveStepsError
from trove_steps.models.folder import base_folder, transformer_folder
from trove_steps.models.settings import ModelSettings
from trove_steps.own_code import reason

# Parts of a model that its last hidden states do not depend on: they may be missing from its file.
UNUSED_WEIGHTS = ("pooler.", "position_ids", "lm_head.", "classifier.", "cls.predictions")

SMALL_VOCABULARY = 1000  # tokens; a larger one can't be all special
NO_VOCABULARY = (
    "{} has no vocabulary of a tokenizer (tokenizer.json, vocab.txt, …): all texts would look alike; is the "
    "download complete, was the tokenizer saved beside the model?"
)

# Architectures that work without their own pooling layer.
IDLE_POOLER = {"bert", "roberta", "xlm-roberta", "camembert", "mpnet"}


def load_tokenizer(folder: Path, settings: ModelSettings):
    """Return the tokenizer in the folder of a model or an adapter, else that of the adapter's base.

    Raises TroveStepsError if it can't be loaded or knows no words.
    """
    from transformers import AutoTokenizer

    own, base = transformer_folder(folder), base_folder(folder)
    has_own = any((own / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
    source = own if has_own or base is None else transformer_folder(base)
    with _told("tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(
            source, local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    if not knows_words(tokenizer):
        raise TroveStepsError(NO_VOCABULARY.format(shown_path(source)))
    return tokenizer


def knows_words(tokenizer) -> bool:
    """Tell whether a tokenizer has a vocabulary: of a folder without its files transformers makes one
    whose tokens are all special (or, for T5, all but one), to which all texts look alike."""
    if len(tokenizer) > SMALL_VOCABULARY:
        return True
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return len(tokenizer.get_vocab().keys() - special) > 1


def load_model(folder: Path, settings: ModelSettings, device: str):
    """Return the model in a folder on the device, for inference: without head, pooler and cache.

    Raises TroveStepsError if it can't be loaded, or would hold random numbers.
    """
    _check_attention(settings, device)
    own, base = transformer_folder(folder), base_folder(folder)
    source = own if base is None else transformer_folder(base)
    quantized = settings.load_in_8bit or settings.load_in_4bit
    placed = {"device_map": {"": device}} if quantized else {}
    with _told("model", source):
        model, report = _auto_class(source, settings).from_pretrained(
            source,
            dtype=getattr(torch, settings.torch_dtype),
            attn_implementation=settings.attn_implementation,
            quantization_config=_quantization(settings, device) if quantized else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told of below
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
        pack_linears(model)
        fuse_layers(model)
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
            f"the weights in {shown_path(folder)} do not fit its config.json: {len(lacking)} are missing "
            f"or of another shape, {sorted(lacking)[0]} for one; fetch the model again"
        )


def _merge_adapter(model, folder: Path):
    """Return the base model with the adapter's weights added to its own."""
    if importlib.util.find_spec("peft") is None:
        raise TroveStepsError(f"{folder} is a PEFT adapter: pip install peft")
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    with _told("adapter", folder), warnings.catch_warnings():
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


def be_quiet() -> None:
    """Keep what transformers says while it loads to itself."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def _told(what: str, folder: Path):
    """Turn what a library raises while loading into one line for the user."""
    try:
        yield
    except TroveStepsError:
        raise
    except Exception as error:
        where = f"the {what} in {shown_path(folder)} can't be loaded"
        if "trust_remote_code" in str(error):
            raise TroveStepsError(
                f"{where}: it brings code of its own. Read the *.py files in its folder, then set "
                "trust_remote_code: true"
            ) from error
        elsewhere = isinstance(error, ImportError | MemoryError | torch.OutOfMemoryError)
        advice = "" if elsewhere else "; is the folder complete, or was it damaged on its way here?"
        raise TroveStepsError(
            f"{where}: {shorten(reason(error), 400, placeholder=' …')}{advice}"
        ) from error
