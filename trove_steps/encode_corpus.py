"""Step: encode the documents of a data set.

Vectors go to {cache}/embeddings/{encoder}/, where {encoder} is the key of the model's files and
settings. Texts that have a vector there already are not encoded again; a run that was killed goes on
where it was. Works with any number of processes; the result does not depend on it.
"""

from trove_steps.arguments import run_step
from trove_steps.encoding.step import encode


def main() -> None:
    encode("corpus", "encode_corpus", "--corpus-path", __doc__)


if __name__ == "__main__":
    run_step(main)
