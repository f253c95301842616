"""Encoder classes of the user's own: how they are run, and what is said of one that is wrong."""

import numpy as np
import pytest

from tests.conftest import PROJECT
from tests.models import MAX_LEN, settings_of
from trove_steps.encoder import Encoder
from trove_steps.errors import TroveStepsError


def test_own_class(tmp_path, monkeypatch):
    (tmp_path / "letter_counts.py").write_text(
        "import torch\n"
        "from trove_steps.encoder import Tokens\n"
        "class Letters:\n"
        "    pad_id = 0\n"
        "    def __init__(self, folder, settings, max_len, device):\n"
        "        self.max_len = max_len\n"
        "    def tokenize(self, texts):\n"
        "        return Tokens([[ord(c) % 7 for c in text][: self.max_len] for text in texts])\n"
        "    def forward(self, ids, mask):\n"
        "        return (torch.nn.functional.one_hot(ids, 7) * mask.unsqueeze(-1)).sum(1).float()\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = settings_of(None, normalize=False, encoder_class="letter_counts:Letters")
    encoder = Encoder(tmp_path, settings, MAX_LEN)
    assert encoder.dim == 7
    expected = np.bincount([ord(c) % 7 for c in "hello"], minlength=7)
    assert (encoder.encode(["hello", ""]).vectors == [expected, np.zeros(7)]).all()


def test_own_class_of_the_documentation(tmp_path, monkeypatch):
    page = (PROJECT / "docs" / "encoders.md").read_text(encoding="utf-8")
    (tmp_path / "documented.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    encoder = Encoder(tmp_path, settings_of(None, encoder_class="documented:MyEncoder"), MAX_LEN)
    encoded = encoder.encode(["hello", "x" * 50, "hello"])
    assert encoded.vectors.shape == (3, 64)
    assert np.array_equal(encoded.vectors[0], encoded.vectors[2])
    assert encoded.cut.tolist() == [0, 2, 0]
    assert encoder.is_pure


RIGHT = {
    "pad_id": "    pad_id = 0\n",
    "init": "    def __init__(self, folder, settings, max_len, device):\n        self.max_len = max_len\n",
    "tokenize": "    def tokenize(self, texts):\n"
    "        return Tokens([[1] * min(len(text), self.max_len) for text in texts])\n",
    "forward": "    def forward(self, ids, mask):\n        return torch.zeros(len(ids), 3)\n",
}


def own(folder, number: int, **parts: str) -> Encoder:
    """Make an encoder of a class that is right but for some parts; `number` keeps the modules apart."""
    source = "import torch\nfrom trove_steps.encoder import Tokens\nclass Mine:\n    x = 1\n"
    (folder / f"own_class_{number}.py").write_text(source + "".join((RIGHT | parts).values()))
    settings = settings_of(None, encoder_class=f"own_class_{number}:Mine")
    return Encoder(folder, settings, MAX_LEN)


MISTAKES = [
    ({"pad_id": ""}, "lacks pad_id"),
    ({"forward": ""}, "lacks the method forward"),
    (
        {"init": "    def __init__(self, *_):\n        {}['weights']\n"},
        r"__init__ raised KeyError: 'weights' \(.*own_class_2\.py, line 7\)",
    ),
    (
        {"tokenize": "    def tokenize(self, texts):\n        return texts.lower()\n"},
        r"tokenize raised AttributeError: 'list' object .*own_class_3\.py, line 9\)",
    ),
    (
        {"tokenize": "    def tokenize(self, texts):\n        return [[1] for _ in texts]\n"},
        r"tokenize returned list; return trove_steps\.encoder\.Tokens",
    ),
    (
        {"tokenize": "    def tokenize(self, texts):\n        return Tokens([[1]])\n"},
        "tokenize returned 1 rows of ids for 2 texts",
    ),
    (
        {
            "tokenize": "    def tokenize(self, texts):\n        return Tokens([[1]] * len(texts), [0])\n"
        },
        "tokenize returned 1 numbers in cut for 2 texts",
    ),
    (
        {
            "tokenize": "    def tokenize(self, texts):\n        return Tokens([[1] * 50 for _ in texts])\n"
        },
        "tokenize returned 50 ids for the text 'a'; max_len is 48: cut them",
    ),
    (
        {"forward": "    def forward(self, ids, mask):\n        return torch.zeros(2, 3) @ ids\n"},
        r"forward raised RuntimeError: .*own_class_8\.py, line 11\)",
    ),
    (
        {
            "forward": "    def forward(self, ids, mask):\n        return torch.zeros(len(ids), 4, 3)\n"
        },
        r"forward returned the shape \(1, 4, 3\) for 1 rows; return a tensor \[rows, dim\]",
    ),
    (
        {"forward": "    def forward(self, ids, mask):\n        return [0]\n"},
        "forward returned list",
    ),
]


@pytest.mark.parametrize(
    ("number", "parts", "said"), [(n, *case) for n, case in enumerate(MISTAKES)]
)
def test_a_wrong_class_is_told_in_one_line(tmp_path, monkeypatch, number, parts, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TroveStepsError, match=said) as error:
        own(tmp_path, number, **parts).encode(["a", "bc"])
    text = str(error.value)
    assert text.startswith(f"encoder_class own_class_{number}:Mine: ")
    assert "\n" not in text


@pytest.mark.parametrize(("said", "at_once"), [("", 1), ("    side_by_side = True\n", 3)])
def test_batches_of_a_class_at_once_only_if_it_says_so(tmp_path, monkeypatch, said, at_once):
    import torch

    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        encoder = own(tmp_path, 500 + at_once, pad_id=said + RIGHT["pad_id"])
        assert encoder.figures()["batches_at_once"] == at_once
    finally:
        torch.set_num_threads(before)


def test_a_class_that_lacks_memory_gets_smaller_batches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = own(
        tmp_path,
        99,
        forward="    def forward(self, ids, mask):\n"
        "        if len(ids) > 8:\n            raise torch.OutOfMemoryError('no room')\n"
        "        return torch.ones(len(ids), 3)\n",
    )
    assert encoder.encode(["a"] * 40).vectors.shape == (40, 3)
    assert encoder.halvings == 3
