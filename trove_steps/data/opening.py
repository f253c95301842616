"""Opening an input file: its bytes hashed while they stream, decompressed, cut into lines.

What a file is, its first bytes decide, not its name.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from trove_steps.errors import TroveStepsError

# Blocks, their lines and what is parsed from them together fit into a core's cache: with blocks of
# 1 MiB, reading takes twice as long.
BLOCK_BYTES = 1 << 17
HEAD_BYTES = 1 << 16
LONGEST_LINE_BYTES = 1 << 30
HASHED_BYTES = 8 << 20  # hashed at once: a thread waits for the interpreter's lock each time

COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    # Frames that are to be skipped, with which pzstd begins.
    **{bytes([first, 0x2A, 0x4D, 0x18]): "zstd" for first in range(0x50, 0x60)},
}
FORMATS = {b"PAR1": "Parquet", b"ARROW1": "Arrow file", b"\xff\xff\xff\xff": "Arrow stream"}
UTF16 = "encoded in UTF-16: convert it, for instance with iconv -f UTF-16 -t UTF-8"
PICKLE = "a Python pickle, which could run any code when it is read: write it as JSON"
REFUSED = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"\x04\x22\x4d\x18": "compressed with lz4: use gzip, zstd, bzip2 or xz",
    b"FEA1": "a Feather version 1 file: write it again as Parquet",
    b"\x89HDF": "an HDF5 file: write it again as Parquet",
    b"SQLite format 3\x00": "an SQLite database: export the table as CSV",
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{"), UTF16),
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), PICKLE),
}
UTF8_BOM = b"\xef\xbb\xbf"


class Source:
    """One input file as a context: `with Source(path) as source: source.read(n)`.

    name: what messages call it.
    head: the first bytes after decompression (64 KiB, less in a smaller file), without a UTF-8 BOM.
    format: "Parquet", "Arrow file", "Arrow stream" or "text".
    compression: "gzip", "zstd", "bzip2", "xz" or None.
    line: the number of lines that `lines` has handed out, for messages.
    ended_in_mid_line: whether the last line lacks its line end; known when all was read.

    With `digest`, leaving the context compares it with the SHA-256 of the file's bytes. A difference
    is a TroveStepsError, also in place of an error that the changed bytes caused.
    """

    def __init__(self, path: Path | str, shown_as: str | None = None, digest: str | None = None):
        self.name = str(shown_as or path)
        self.line = 0
        self.ended_in_mid_line = False
        self._digest = digest
        file = _open(path, self.name)
        try:
            self.compression = _match(COMPRESSIONS, file.read(16))
            file.seek(0)
            self._raw = _HashedFile(file, digest is not None)
            self._stream = _decompressed(self._raw, self.compression)
            self._unread = b""
            self.head = self._read_head()
        except BaseException:
            file.close()
            raise
        self.format = _match(FORMATS, self.head) or "text"
        self._unread = self.head

    def _read_head(self) -> bytes:
        head = b""
        while len(head) < HEAD_BYTES and (block := self.read(HEAD_BYTES - len(head))):
            head += block
        refused = _match(REFUSED, head)
        if self.compression and (inner := _match(COMPRESSIONS, head)):
            refused = (
                f"compressed twice, there is {inner} inside the {self.compression}: unpack it once"
            )
        if head[257:262] == b"ustar":
            refused = "a tar archive: unpack it first"
        if refused:
            raise TroveStepsError(f"{self.name} is {refused}")
        if len(head) >= HEAD_BYTES and not head.strip():
            raise TroveStepsError(f"{self.name} begins with 64 KiB of white space: remove it")
        return head.removeprefix(UTF8_BOM)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if self._digest and (error is None or isinstance(error, TroveStepsError)):
                self._check_digest()
        finally:
            self._raw.close()

    def _check_digest(self) -> None:
        if self.format != "text":
            # Such a file is read by position: hashing it last notices changes during the reading too.
            self._raw.restart()
        while self._raw.read(BLOCK_BYTES):
            pass
        if self._raw.digest.hexdigest() != self._digest:
            raise changed(self.name) from None

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """Return up to `size` decompressed bytes, none at the end of the file."""
        if self._unread:
            block, self._unread = self._unread[:size], self._unread[size:]
            return block
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            where = f"{self.name}:{self.line + 1}" if self.line else self.name
            if self.compression is None:
                raise TroveStepsError(f"{where}: reading failed: {error}") from None
            raise TroveStepsError(
                f"{where}: the {self.compression} data are damaged or cut off here ({error}): copy "
                "or download the file again"
            ) from None

    def lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield (number of the first line, lines without their line feed), a block at a time."""
        for first, lines in self.whole_lines():
            yield first, [line.rstrip(b"\n") for line in lines]

    def whole_lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield (number of the first line, lines as they stand), a block at a time."""
        unfinished: list[bytes] = []
        waiting = 0
        while block := self.read():
            lines = _cut(block)
            rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
            if lines:
                lines[0] = b"".join((*unfinished, lines[0]))
                unfinished, waiting = [], 0
                first = self.line + 1
                self.line += len(lines)
                yield first, lines
            unfinished.append(rest)
            waiting += len(rest)
            if waiting > LONGEST_LINE_BYTES:
                raise TroveStepsError(
                    f"{self.name}:{self.line + 1}: the line is longer than 1 GiB, where one record "
                    "per line is expected"
                )
        if last := b"".join(unfinished):
            self.ended_in_mid_line = True
            self.line += 1
            yield self.line, [last]

    def seekable(self) -> io.IOBase:
        """Return the decompressed file as one that can be read at any position."""
        if self.compression is None:
            self._raw.digest = None
            self._raw.seek(0)
            return self._raw
        try:
            copy = tempfile.TemporaryFile()  # noqa: SIM115 (closed with its last reference)
            while block := self.read():
                copy.write(block)
            copy.flush()
        except OSError as error:
            raise TroveStepsError(
                f"{self.name} can't be unpacked into a temporary file ({error.strerror}): name a folder "
                "with more room as TMPDIR, or unpack the file yourself"
            ) from None
        copy.seek(0)
        return copy


def _cut(block: bytes) -> list[bytes]:
    """Return the lines of a block with their line feeds; bytes.split and splitlines take thrice as long."""
    return io.BytesIO(block).readlines()


class Portion:
    """The lines of a plain text file that begin in the bytes [start, end), as `Source` gives its lines.

    Whoever reads portions does not know the numbers of their lines: each counts from 1.
    """

    line = 0
    ended_in_mid_line = False

    def __init__(self, path: Path | str, start: int, end: int):
        self.name = str(path)
        self._start, self._end = start, end

    def whole_lines(self) -> Iterator[tuple[int, list[bytes]]]:
        with open(self.name, "rb") as file:
            file.seek(max(0, self._start - 1))
            if self._start:
                file.readline()  # belongs to the portion in which it begins
            first = 1
            while block := file.read(max(0, min(BLOCK_BYTES, self._end - file.tell()))):
                lines = _cut(block)
                if not block.endswith(b"\n"):
                    lines[-1] += file.readline()
                yield first, lines
                first += len(lines)


def changed(name: str) -> TroveStepsError:
    """Return the error for a file that is not the one that it should be."""
    return TroveStepsError(
        f"{name} changed while it was read, or since this run was planned: wait until it is complete, "
        "then start again"
    )


def _open(path: Path | str, name: str) -> io.FileIO:
    try:
        # Opening a named pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a directory" if os.path.isdir(path) else "not a regular file"
            raise TroveStepsError(f"{name} is {kind}: name the file itself")
        file = open(path, "rb", buffering=0)  # noqa: SIM115 (Source closes it)
    except FileNotFoundError:
        raise TroveStepsError(f"{name} does not exist: check the path") from None
    except PermissionError:
        raise TroveStepsError(
            f"{name}: no permission to read it: change its mode, for instance with chmod +r"
        ) from None
    except (OSError, ValueError) as error:
        raise TroveStepsError(f"{name} can't be opened: {error}") from None
    return file


def _match(magic: dict[bytes, str], start: bytes) -> str | None:
    return next((what for mark, what in magic.items() if start.startswith(mark)), None)


def _decompressed(raw: io.RawIOBase, compression: str | None):
    if compression is None:
        return raw
    buffered = io.BufferedReader(raw, BLOCK_BYTES)
    if compression == "gzip":
        return gzip.GzipFile(fileobj=buffered)
    if compression == "bzip2":
        return bz2.BZ2File(buffered)
    if compression == "xz":
        return lzma.LZMAFile(buffered)
    import pyarrow as pa

    # Unlike the readers of zstandard, this one notices that the data are cut off.
    return pa.CompressedInputStream(pa.PythonFile(buffered, mode="r"), "zstd")


class _Digest:
    """SHA-256, computed in a thread beside the reading."""

    def __init__(self):
        self._sha256 = hashlib.sha256()
        self._gathered = bytearray()
        self._thread: ThreadPoolExecutor | None = None
        self._hashing: Future | None = None

    def update(self, block) -> None:
        self._gathered += block
        if len(self._gathered) < HASHED_BYTES:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sha256")
        if self._hashing is not None:
            self._hashing.result()
        self._hashing = self._thread.submit(self._sha256.update, self._gathered)
        self._gathered = bytearray()

    def hexdigest(self) -> str:
        """Return the digest of all blocks so far."""
        if self._hashing is not None:
            self._hashing.result()
        self._sha256.update(self._gathered)
        self._gathered.clear()
        return self._sha256.hexdigest()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()


class _HashedFile(io.RawIOBase):
    """A file whose bytes are hashed, if `hashed`, in the order in which they are read."""

    def __init__(self, file: io.FileIO, hashed: bool):
        self._file = file
        self.digest = _Digest() if hashed else None

    def restart(self) -> None:
        """Go back to the first byte and forget what was hashed so far."""
        self.seek(0)
        self.digest = _Digest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        # What RawIOBase makes of readinto copies once more.
        block = self._file.read(size)
        if self.digest:
            self.digest.update(block)
        return block

    def readinto(self, buffer) -> int:
        size = self._file.readinto(buffer)
        if self.digest and size:
            self.digest.update(memoryview(buffer)[:size])
        return size

    def close(self) -> None:
        if self.digest:
            self.digest.close()
        self._file.close()
        super().close()
