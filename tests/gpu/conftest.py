"""What needs a GPU; skipped where there is none."""

import pytest


@pytest.fixture(scope="session")
def device() -> str:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return "cuda:0"
