"""Recurrent layers on the meta device: the shape of what they give, and what it depends on, without the steps.

torch runs a recurrence without data step by step in Python: 36 s for timm's sequencer2d_s at 224 px, 0.3 s like this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any

from torch import Tensor, nn

KINDS: tuple[Any, ...] = (nn.LSTM, nn.GRU, nn.RNN)


@contextmanager
def without_steps() -> Iterator[None]:
    """Inside, an `nn.LSTM`, `nn.GRU` or `nn.RNN` that gets a meta tensor gives outputs of the right shape at once.

    Outputs depend on the input and on all parameters, so that gradients reach what they would reach.
    """
    before = {kind: kind.forward for kind in KINDS}
    for kind in KINDS:
        kind.forward = partialmethod(_outputs, before[kind])
    try:
        yield
    finally:
        for kind in KINDS:
            kind.forward = before[kind]


def _outputs(layer: nn.RNNBase, real: Any, given: Any, state: Any = None) -> Any:
    if not isinstance(given, Tensor) or not given.is_meta or state is not None:
        return real(layer, given, state)
    directions = 2 if layer.bidirectional else 1
    width = (layer.proj_size or layer.hidden_size) * directions
    source = given.sum() + sum(parameter.sum() for parameter in layer.parameters())
    sequences = given.shape[:-2] if given.dim() == 2 else given.shape[:1] if layer.batch_first else given.shape[1:2]
    outputs = given.new_empty(*given.shape[:-1], width) + source
    last = given.new_empty(layer.num_layers * directions, *sequences, width // directions) + source
    if not isinstance(layer, nn.LSTM):
        return outputs, last
    return outputs, (last, given.new_empty(*last.shape[:-1], layer.hidden_size) + source)
