"""What a model's config.json says."""

from pathlib import Path

from trove_steps.models.folder import base_folder, read_model_json, transformer_folder

# Architectures that count positions from after the padding token's id.
OFFSET_POSITIONS = {
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer",
    "roberta-prelayernorm", "data2vec-text", "xmod", "ibert", "luke",
}  # fmt: skip


def transformer_config(folder: Path) -> dict:
    """Return a model's config.json, that of the base model if it is an adapter; {} if there is none."""
    inner = transformer_folder(folder)
    config = read_model_json(inner / "config.json")
    if config is None and (inner / "adapter_config.json").exists():
        return transformer_config(base_folder(folder))
    return config or {}


def max_positions(folder: Path) -> int | None:
    """Return how many tokens the model has positions for, None if there is no such limit."""
    config = transformer_config(folder)
    config = config.get("text_config") or config
    kind = config.get("model_type", "")
    positions = config.get("max_position_embeddings")
    if positions is None and kind.startswith("gpt"):
        positions = config.get("n_positions")
    if not positions or positions < 0:
        return None
    return positions - (config.get("pad_token_id", 1) + 1 if kind in OFFSET_POSITIONS else 0)
