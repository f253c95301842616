"""The settings of a model: how texts become vectors, and where each value came from."""

import json
from dataclasses import dataclass, field

from trove_steps import own_code
from trove_steps.keys import derived_recipe
from trove_steps.models.sentence_transformers_files import DESCRIPTION


@dataclass(frozen=True)
class ModelSettings:
    """How texts become vectors; `sources` says of each value where it came from.

    `unused_prompts` are names of the model's prompts that neither format takes by itself.
    `pooling` is None when an own encoder class pools. `pad_to_multiple_of` is None for what suits the
    device. `encoder_class` is "default" or "module:Class".
    """

    pooling: str | None
    normalize: bool
    query_max_len: int
    passage_max_len: int
    torch_dtype: str = "float32"
    append_eos: bool = False
    padding_side: str = "right"
    truncation_side: str = "right"
    encoder_class: str = "default"
    truncate_dim: int | None = None
    quantization: str | None = None
    embedding_dtype: str = "float32"
    similarity: str = "dot"
    query_format: str = "{text}"
    passage_format: str = "{title} {text}"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    pad_to_multiple_of: int | None = None
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False
    sources: dict[str, str] = field(default_factory=dict, compare=False)
    unused_prompts: tuple[str, ...] = field(default=(), compare=False)

    def max_len(self, role: str) -> int:
        """Return the most tokens of a text of a role, "query" or "passage"; special tokens count."""
        return self.query_max_len if role == "query" else self.passage_max_len

    def encoder_recipe(self, role: str) -> dict:
        """Return what, beside the model's files, determines the vector of a string.

        Templates are no part of it (they are in the string), nor are the attention kernel and
        the padding, which change the last bits at most, nor what is derived from stored vectors.
        Options that are off leave no trace, so that a new option does not rename what exists.
        """
        recipe = {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_len": self.max_len(role),
            "append_eos": self.append_eos,
            "torch_dtype": self.torch_dtype,
        }
        if self.truncation_side != "right":
            recipe["truncation_side"] = self.truncation_side
        if self.embedding_dtype != "float32":
            recipe["embedding_dtype"] = self.embedding_dtype
        if self.padding_side != "right":
            recipe["padding_side"] = self.padding_side
        if self.load_in_8bit:
            recipe["quantization"] = "bitsandbytes-8bit"
        if self.load_in_4bit:
            nested = "-nested" if self.use_bnb_nested_quant else ""
            recipe["quantization"] = f"bitsandbytes-4bit-{self.bnb_4bit_quant_type}{nested}"
        if ":" in self.encoder_class:
            digest = own_code.source_digest(self.encoder_class, "encoder_class")
            recipe["encoder_class"] = {"name": self.encoder_class, "sha256": digest}
        return recipe

    def derived_recipe(self) -> dict:
        """Return how the vectors that are searched are made of the stored ones."""
        return derived_recipe(self.truncate_dim, self.normalize, self.quantization)

    def described(self) -> dict[str, dict]:
        """Return option → {"value", "source"} of every option, for records and people."""
        return {
            option: {"value": getattr(self, option), "source": source}
            for option, source in self.sources.items()
        }

    def report(self) -> dict:
        """Return all that a person or a program may want to know of the settings."""
        return {"settings": self.described(), "unused_prompts": list(self.unused_prompts)}

    def described_lines(self) -> str:
        """Return the settings with their sources for people, one per line."""
        lines = [
            f"{option}: {_spelled(entry['value'])} ({entry['source']})"
            for option, entry in self.described().items()
        ]
        if self.unused_prompts:
            lines.append(
                f"prompts not used: {', '.join(self.unused_prompts)} ({DESCRIPTION}); to use one, write its "
                "text into query_format or passage_format"
            )
        return "\n".join(lines)


OPTIONS = [name for name, entry in ModelSettings.__dataclass_fields__.items() if entry.compare]


def _spelled(value) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
