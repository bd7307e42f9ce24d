"""`vlm bench`, as a user calls it: what cannot be measured is refused before anything is built."""

import os
from collections.abc import Callable

import pytest
import torch

Vlm = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parts", "--threads", "0"], "--threads must be at least 1, got 0"),
        (["train", "--threads", "-2"], "--threads must be at least 1, got -2"),
        (["parts", "--threads", "1000000"], f"--threads is at most {os.cpu_count()}, the cores of this machine"),
        (["parts", "--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["train", "--rounds", "-3"], "--rounds must be at least 1, got -3"),
        (["train", "--documents", "-1"], "--documents must be at least 1, got -1"),
        (["train", "--length", "0"], "--length must be at least 1, got 0"),
        (["train", "--compression", "1"], "must be above 1, got 1.0"),
        (["train", "--compression", "nan"], "must be above 1, got nan"),
        (["train", "--compression", "inf"], "must be finite, got inf"),
        (["compression", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["compression", "--seeds", "-2"], "--seeds must be at least 1, got -2"),
        (["train", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["parts", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["parts", "--device", "toaster"], "device 'toaster' cannot be used"),
        (["parts", "--device", "meta"], "device 'meta' cannot be used"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(vlm: Vlm, arguments: list[str], message: str) -> None:
    threads = torch.get_num_threads()
    code, out, err = vlm("bench", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert torch.get_num_threads() == threads
