"""Reading collections and relevance judgments: every common format, detected by content."""

from trove_steps.data.batches import Batch, Reader, reader_of
from trove_steps.data.id_tables import check_unique_ids
from trove_steps.data.namespaces import named
from trove_steps.data.qrels import QrelsInfo, load_qrels, most_annotated, read_qrels
from trove_steps.data.records import portion_bounds, read_portion, read_records
from trove_steps.data.template import format_text, format_texts

__all__ = [
    "Batch",
    "QrelsInfo",
    "Reader",
    "check_unique_ids",
    "format_text",
    "format_texts",
    "load_qrels",
    "most_annotated",
    "named",
    "portion_bounds",
    "read_portion",
    "read_qrels",
    "read_records",
    "reader_of",
]
