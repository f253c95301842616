"""Rows of CSV and TSV files and columns of Parquet and Arrow files."""

import csv
import mmap
import re
from collections.abc import Iterator, Sequence

from trove_steps.data.ids import shortened
from trove_steps.data.opening import Source
from trove_steps.errors import TroveStepsError

PART_BYTES = 4 << 20
LONGEST_FIELD = 1 << 28  # characters
QUOTED = re.compile(r'"(?:[^"]|"")*+"')
AS_LINES = "or write the file as JSON lines"


def delimiter(source: Source) -> str | None:
    """Return the separator of a text file's columns: tab, comma or None.

    The first line that is not blank decides.
    """
    first = next((line for line in source.head.split(b"\n") if line.strip()), b"")
    return next((mark for mark in ("\t", ",") if mark.encode() in first), None)


def decoded(lines: list[bytes], first: int, name: str) -> list[str]:
    """Decode lines from UTF-8; one that isn't, or holds a NUL byte, is an error with its number."""
    try:
        texts = [line.decode() for line in lines]
    except UnicodeDecodeError:
        for number, line in enumerate(lines, first):
            check_utf8(line, f"{name}:{number}")
        raise
    for number, text in enumerate(texts, first):
        if "\0" in text:
            # What a crash leaves of a file that was being written, or a wrong encoding.
            raise TroveStepsError(
                f"{name}:{number}: a NUL byte at position {text.index(chr(0)) + 1} of the line: the file "
                "is damaged or not text; copy it again or remove the byte"
            )
    return texts


def check_utf8(line: bytes, where: str) -> None:
    """Raise TroveStepsError at the first byte that is not UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise TroveStepsError(
            f"{where}: byte 0x{line[error.start]:02x} at position {error.start + 1} of the line is not "
            "UTF-8: convert the file, for instance with iconv -f LATIN1 -t UTF-8"
        ) from None


def tsv_rows(source: Source) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    """Yield (line numbers, rows) of a tab-separated file, where every line is one row.

    Quotes are part of the text, unless the file shows that its writer quotes: in the first block with
    any quote, each field with a quote is enclosed in quotes and doubles those inside, or a column is
    enclosed throughout. Then they are undone.
    """
    quoting = None
    for first, lines in source.lines():
        texts = decoded(lines, first, source.name)
        rows = [line.removesuffix("\r").split("\t") for line in texts]
        numbers = range(first, first + len(rows))
        if [""] in rows:
            kept = [i for i, row in enumerate(rows) if row != [""]]
            rows, numbers = [rows[i] for i in kept], [numbers[i] for i in kept]
        if quoting is not False and any('"' in text for text in texts):
            if quoting is None:
                quoting = _writer_quotes(rows)
            if quoting:
                named = zip(numbers, rows, strict=True)
                rows = [_unquoted(row, f"{source.name}:{number}") for number, row in named]
        yield numbers, rows


def _writer_quotes(rows: list[list[str]]) -> bool:
    """Whether quotes in these rows are those that a CSV library adds."""
    found = [(c, field) for row in rows for c, field in enumerate(row) if '"' in field]
    if not all(QUOTED.fullmatch(field) for _, field in found):
        return False
    if all('""' in field[1:-1] for _, field in found):
        return True
    body = len(rows) - (len(rows) > 1)  # a header may go without
    counts = [0] * max(map(len, rows))
    for column, _ in found:
        counts[column] += 1
    return max(counts) >= body


def _unquoted(row: list[str], where: str) -> list[str]:
    if not any('"' in field for field in row):
        return row
    for field in row:
        if '"' in field and not QUOTED.fullmatch(field):
            raise TroveStepsError(
                f"{where}: the quotes of {shortened(field)} don't enclose the field, as they do in the "
                f"lines before: correct it, {AS_LINES}"
            )
    return [field[1:-1].replace('""', '"') if '"' in field else field for field in row]


def csv_rows(source: Source) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    """Yield (line numbers, rows) of a comma-separated file (RFC 4180: quotes, line ends in quotes)."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(_csv_lines(source), strict=True)
    numbers, rows, size, start = [], [], 0, 1
    try:
        for row in reader:
            if row:
                numbers.append(start)
                rows.append(row)
                size += sum(map(len, row))
            start = reader.line_num + 1
            if size > 1 << 20 or len(rows) == 4096:
                yield numbers, rows
                numbers, rows, size = [], [], 0
    except csv.Error as error:
        raise TroveStepsError(
            f"{source.name}:{start}: not valid CSV ({error}): enclose a field in double quotes and "
            f"double those inside it, {AS_LINES}"
        ) from None
    if rows:
        yield numbers, rows


def _csv_lines(source: Source) -> Iterator[str]:
    for first, lines in source.lines():
        for line in decoded(lines, first, source.name):
            yield line + "\n"


def check_widths(rows: list[list[str]], numbers: Sequence[int], width: int, name: str) -> None:
    """Raise TroveStepsError at the first row that does not have `width` columns."""
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != width:
            raise TroveStepsError(
                f"{name}:{number}: {len(row)} columns where {width} are expected: is a separator or a "
                f"line end part of a text? Correct the line, {AS_LINES}"
            )


def column_batches(source: Source, choose, batch_rows: int) -> Iterator:
    """Yield (number of the first row, record batch) of a Parquet or Arrow file.

    `choose` gets the list of the column names and returns those to read. Rows count from 1.
    """
    import pyarrow as pa

    row = 1
    try:
        for batch in _batches(source, choose, batch_rows):
            batch.validate()  # before anything is counted from its offsets
            step = _rows_per_part(batch.nbytes, batch.num_rows, batch_rows)
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                part.validate(full=True)
                yield row, part
                row += part.num_rows
    except (pa.ArrowException, OSError, MemoryError, OverflowError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        kind = source.format.removesuffix(" file")
        raise TroveStepsError(
            f"{source.name}: not a readable {kind} file, near row {row} ({reason}): it is "
            "damaged or cut off; copy or write it again"
        ) from None


def _rows_per_part(size: int, rows: int, most: int) -> int:
    """Return how many of `rows` rows of `size` bytes together make about PART_BYTES, at most `most`."""
    return max(1, min(most, PART_BYTES * rows // max(size, 1)))


def _batches(source: Source, choose, batch_rows: int) -> Iterator:
    import pyarrow as pa

    file = source.seekable()
    if source.format == "Parquet":
        import pyarrow.parquet as pq

        # A buffer makes memory independent of the size of the row groups.
        parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        names = choose(parquet.schema_arrow.names)
        groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        step = _rows_per_part(size, parquet.metadata.num_rows, batch_rows)
        yield from parquet.iter_batches(step, columns=names)
        return
    # A batch may be as large as the file: mapped, only the pages in use take memory.
    content = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if source.format == "Arrow file":
        arrow = pa.ipc.open_file(content)
        names = choose(arrow.schema.names)
        yield from (arrow.get_batch(i).select(names) for i in range(arrow.num_record_batches))
    else:
        stream = pa.ipc.open_stream(content)
        names = choose(stream.schema.names)
        yield from (batch.select(names) for batch in stream)
