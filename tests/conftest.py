"""What all tests share: one thread and a fixed seed."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

pytest_plugins = ["feedback_world"]  # the fixtures of the feedback room

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Each test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
