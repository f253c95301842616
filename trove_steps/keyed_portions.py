"""A process that `trove_steps.keyed` starts: reads every n-th portion of a file of JSON lines.

    python -m trove_steps.keyed_portions NUMBER PROCESSES

Standard input: JSON, [path, where portions begin and end, fields of the reader, text template].
Standard output, per portion: the number of records and the bytes of their ids (8 bytes each), the keys, the
ids, each with a line feed. Where a portion is unusual, the output ends. So does this process when nobody
reads its output any more.
"""

import json
import signal
import sys
from array import array

from trove_steps.data import Reader, format_texts, read_portion
from trove_steps.errors import TroveStepsError
from trove_steps.keys import text_keys


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    first, step = map(int, sys.argv[1:])
    path, bounds, reader, template = json.load(sys.stdin)
    reader = Reader(**reader)
    output = open(1, "wb")  # noqa: SIM115 (sys.stdout may write less than it is given: PYTHONUNBUFFERED)
    for number in range(first, len(bounds) - 1, step):
        ids, keys = [], []
        try:
            for batch in read_portion(path, bounds[number], bounds[number + 1], reader):
                if reader.title and all(title is None for title in batch.titles):
                    return
                ids += batch.ids
                keys.append(text_keys(format_texts(template, batch.titles, batch.texts)))
        except TroveStepsError:
            return
        names = "".join([f"{name}\n" for name in ids]).encode()
        head = array("q", [len(ids), len(names)])
        output.write(b"".join((head, *keys, names)))
        output.flush()


if __name__ == "__main__":
    main()
