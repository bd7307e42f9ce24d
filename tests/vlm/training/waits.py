"""Counts where a training step would make the host wait for a GPU; used by test_synchronisations.py.

Without a GPU three kinds of calls stand for waits: those that fetch a value (`tolist`, `item`, `bool`, ...), operations
whose shape depends on values (`nonzero`, masks as index, ...), and tensors made of host values on a named device, which is
a copy from pageable memory. Calls on tensors that lie on the host on every machine are told apart by where they stand.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ON_THE_HOST = {
    ("vlm/backbone/attend.py", "_by_block"): "the plan of the blocks is kept on the CPU",
    ("vlm/backbone/dispatch.py", "_shares"): "only where experts run one after another, which is not on a GPU",
    ("vlm/backbone/documents.py", "plan"): "made on the CPU and kept there",
    ("encoders/protocol.py", "split"): "grids are kept on the CPU",
    ("encoders/protocol.py", "encode_by_size"): "grids are kept on the CPU",
    ("vlm/connector.py", "_runs"): "grids are kept on the CPU",
    ("vlm/model.py", "_blank_features"): "grids are kept on the CPU",
}
FETCHES = ("item", "tolist", "numpy", "cpu", "nonzero", "unique", "masked_select", "equal", "allclose")
FETCHES += ("__bool__", "__int__", "__float__", "__index__", "__contains__")
OPERATIONS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "equal",
    "is_nonzero",
    "bincount",
)


def _where() -> tuple[str, str]:
    """File and function of the nearest frame in our packages; ours of the tests come last."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        for package in ("vlm/", "encoders/", "data/"):
            _, found, rest = path.partition(f"/{package}")
            if found and "site-packages" not in path and "/tests/" not in path:
                return package + rest, frame.f_code.co_name
        if "/tests/" in path and not path.endswith("waits.py"):
            return path.rsplit("/", 1)[1], frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere", ""


class Waits:
    """What was seen: (what, file, function) of each wait."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self._inside = False

    def note(self, what: str) -> None:
        where = _where()
        if where not in ON_THE_HOST and not self._inside:
            self.seen.append((what, *where))

    def wrap(self, what: str, function: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.note(what)
            outer, self._inside = self._inside, True  # a wait is counted once, not again by what it calls
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = outer

        return noted

    def wrap_making(self, what: str, function: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("device") is not None:
                self.note(f"{what} of host values on a device")
            return function(*args, **kwargs)

        return noted


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in OPERATIONS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.waits.note(name)
        by = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
        if any(part is not None and part.dtype in (torch.bool, torch.uint8) for part in by):
            self.waits.note(f"{name} by a mask")
        return func(*args, **kwargs)


@contextmanager
def count_waits() -> Iterator[Waits]:
    """Everything that runs inside on this thread is watched, backward passes too."""
    waits = Waits()
    patches = [patch.object(Tensor, name, waits.wrap(name, getattr(Tensor, name))) for name in FETCHES]
    patches += [
        patch.object(torch, name, waits.wrap_making(name, getattr(torch, name))) for name in ("tensor", "as_tensor")
    ]
    for one in patches:
        one.start()
    try:
        with _Operations(waits):
            yield waits
    finally:
        for one in patches:
            with suppress(RuntimeError):
                one.stop()
