"""Judgments in columns: TSV, CSV, TREC, Parquet and Arrow files."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from trove_steps.data.ids import ROLES, SEPARATOR, bad_id, bad_id_message, shortened
from trove_steps.data.layout import Layout, find_layout, is_number
from trove_steps.data.opening import Source
from trove_steps.data.tables import check_utf8, column_batches
from trove_steps.errors import TroveStepsError

READ_AHEAD = 8 << 20


def text_judgments(source: Source, path: Path | str):
    """Return (format in words, [table]) of a TSV, CSV or TREC file."""
    import pyarrow as pa

    layout = find_layout(source)
    try:
        table = _load(source, layout)
        query, doc, score = (table.column(f"c{c}") for c in layout.columns)
        table = finished(query, doc, score)
    except pa.ArrowInvalid as error:
        # Arrow's message has no line number: look for the reason line by line.
        with Source(path, source.name) as again:
            if not _explain(again, layout):
                raise TroveStepsError(f"{source.name} holds no judgments") from None
        reason = str(error).splitlines()[0]
        raise TroveStepsError(
            f"{source.name}: not readable as {layout.describe()}: {reason}"
        ) from None
    return layout.describe(), [table]


def text_lines(source: Source, query: str, doc: str) -> list[int]:
    """Return the numbers of the lines that judge a pair."""
    layout = find_layout(source)
    found = []
    for first, lines in source.lines():
        for number, line in enumerate(lines, first):
            if query.encode() in line and doc.encode() in line:
                cells = layout.split(line.decode(), source.name)
                if [cells[column].strip() for column in layout.columns[:2]] == [query, doc]:
                    found.append(number)
    return found


def finished(query, doc, score):
    """Return the table of three columns, ids checked, scores as int64 or else double.

    Raises pyarrow.ArrowInvalid for an id or a score that is none.
    """
    import pyarrow as pa

    ids = [_checked_ids(column) for column in (query, doc)]
    return pa.table({"query_id": ids[0], "doc_id": ids[1], "score": _numbers(score)})


def _checked_ids(ids):
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = ids.cast(pa.string())
    if _has_separator(ids):
        ids = pc.utf8_trim_whitespace(ids)
        if _has_separator(ids):
            raise pa.ArrowInvalid("an id with white space")
    if ids.null_count or pc.min(pc.binary_length(ids)).as_py() == 0:
        raise pa.ArrowInvalid("an empty id")
    return ids


def _has_separator(ids) -> bool:
    import numpy as np

    for chunk in ids.chunks:
        _, offsets, values = chunk.buffers()
        if values is None or not len(chunk):
            continue
        first, end = np.frombuffer(offsets, np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
        text = memoryview(values)[first:end]
        # Ten times as fast as the expression; ids in ASCII need no more.
        codes = np.frombuffer(text, np.uint8)
        plain = (codes > 0x20) & (codes < 0x7F)
        if not plain.all() and SEPARATOR.search(text):
            return True
    return False


def _numbers(score):
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(score.type):
        score = pc.utf8_trim_whitespace(score)
        # Arrow reads 0x1F as 31, which no other reader of judgments does.
        if any(pc.any(pc.match_substring(score, x)).as_py() for x in "xX"):
            raise pa.ArrowInvalid("a score in hexadecimal")
    if score.null_count:
        raise pa.ArrowInvalid("a score is null")
    try:
        return score.cast(pa.int64())
    except pa.ArrowInvalid:
        score = score.cast(pa.float64())
    if not pc.all(pc.is_finite(score)).as_py():
        raise pa.ArrowInvalid("a score that is not a finite number")
    return score


def _load(source: Source, layout: Layout):
    """Return the three columns of a text file, as strings, named c0, c1, … by their place."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [f"c{i}" for i in range(layout.width)]
    wanted = [names[i] for i in layout.columns]
    stream = pa.PythonFile(_Stream(source, layout), mode="r")
    return arrow_csv.read_csv(
        stream,
        read_options=arrow_csv.ReadOptions(column_names=names, block_size=READ_AHEAD),
        parse_options=arrow_csv.ParseOptions(
            delimiter="," if layout.mark == "," else "\t",
            quote_char='"' if layout.quotes else False,
        ),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            strings_can_be_null=False,
        ),
    )


class _Stream:
    """The lines of a source below its header, as a file; runs of white space as one tab if asked."""

    def __init__(self, source: Source, layout: Layout):
        self._blocks = _blocks(source, layout)
        self._rest = b""
        self.closed = False

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._blocks, b"")
        block, self._rest = self._rest[:size], self._rest[size:]
        return block

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _blocks(source: Source, layout: Layout) -> Iterator[bytes]:
    header = layout.header
    for _, lines in source.lines():
        if header:
            lines = _below_first(lines)
            header = lines is None
            lines = lines or []
        if not lines:
            continue
        block = b"\n".join(lines) + b"\n"
        if layout.mark == " ":
            block = block.replace(b" ", b"\t")
            if (
                any(mark in block for mark in (b"\t\t", b"\n\t", b"\t\n", b"\t\r"))
                or block[:1] == b"\t"
            ):
                block = b"".join(b"\t".join(line.split()) + b"\n" for line in lines)
        yield block


def _below_first(lines: list[bytes]) -> list[bytes] | None:
    """Return the lines below the first that is not blank, None if all are blank."""
    for index, line in enumerate(lines):
        if line.strip():
            return lines[index + 1 :]
    return None


def _explain(source: Source, layout: Layout) -> int:
    """Raise TroveStepsError at the first line that is not a judgment, else return their number."""
    header = layout.header
    count = 0
    for first, lines in source.lines():
        for number, line in enumerate(lines, first):
            if header or not line.strip(None if layout.mark == " " else b"\r"):
                header = header and not line.strip()
                continue
            where = f"{source.name}:{number}"
            check_utf8(line, where)
            _check_line(line.decode(), layout, where)
            count += 1
    return count


def _check_line(line: str, layout: Layout, where: str) -> None:
    cells = layout.split(line, where)
    if len(cells) != layout.width:
        raise TroveStepsError(
            f"{where}: {len(cells)} columns where the first line has {layout.width}: correct the line "
            "or remove it"
        )
    query, doc, score = (cells[c].strip() for c in layout.columns)
    if (index := bad_id([query, doc])) is not None:
        raise TroveStepsError(f"{where}: {bad_id_message((query, doc)[index])}")
    if not is_number(score):
        raise TroveStepsError(f"{where}: the score {shortened(score)} is not a finite number")


def column_judgments(source: Source):
    """Return (format in words, tables) of a Parquet or Arrow file."""
    import pyarrow as pa

    chosen: list[str] = []
    parts = []
    for row, batch in column_batches(source, _chooser(source.name, chosen), 1 << 16):
        columns = [pa.chunked_array([batch.column(name)]) for name in chosen]
        _check_types(source.name, chosen, columns)
        try:
            parts.append(finished(*columns))
        except pa.ArrowInvalid as error:
            _explain_columns(source.name, row, columns)
            raise TroveStepsError(f"{source.name}: from row {row} on: {error}") from None
    return source.format, parts


def column_lines(source: Source, query: str, doc: str) -> list[int]:
    """Return the numbers of the rows that judge a pair."""
    chosen: list[str] = []
    found = []
    for row, batch in column_batches(source, _chooser(source.name, chosen), 1 << 16):
        pairs = zip(*(batch.column(name).to_pylist() for name in chosen[:2]), strict=True)
        found += [n for n, (q, d) in enumerate(pairs, row) if (str(q), str(d)) == (query, doc)]
    return found


def _chooser(name: str, chosen: list[str]) -> Callable[[list[str]], list[str]]:
    def choose(names: list[str]) -> list[str]:
        for role, known in ROLES.items():
            found = [column for column in names if column.lower() in known]
            if len(found) != 1:
                raise TroveStepsError(
                    f"{name}: the columns {shortened(names)} should hold the {role} once, by one of the "
                    f"names {', '.join(known)}"
                )
            chosen.append(found[0])
        return list(chosen)

    return choose


def _check_types(name: str, names: list[str], columns: list) -> None:
    import pyarrow as pa

    types = pa.types
    for column, values, numeric in zip(names, columns, (False, False, True), strict=True):
        kind = values.type.value_type if types.is_dictionary(values.type) else values.type
        texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        fits = types.is_integer(kind) or (types.is_floating(kind) if numeric else texts)
        if not fits:
            expected = "numbers" if numeric else "strings or integers"
            raise TroveStepsError(f"{name}: the column {column!r} holds {kind}, not {expected}")


def _explain_columns(name: str, row: int, columns: list) -> None:
    """Raise TroveStepsError at the first row that is not a judgment, if there is one."""
    for number, cells in enumerate(zip(*(c.to_pylist() for c in columns), strict=True), row):
        if None in cells:
            raise TroveStepsError(
                f"{name}:{number}: a value is null: every judgment needs all three"
            )
        ids = [str(cell).strip() for cell in cells[:2]]
        if (index := bad_id(ids)) is not None:
            raise TroveStepsError(f"{name}:{number}: {bad_id_message(ids[index])}")
        if not math.isfinite(cells[2]):
            raise TroveStepsError(f"{name}:{number}: the score {cells[2]} is not a finite number")
