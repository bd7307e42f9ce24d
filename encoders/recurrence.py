"""Recurrent layers on the meta device: the shape of what they give, and what it depends on, without the steps.

torch runs a recurrence without data step by step in Python: 36 s for timm's sequencer2d_s at 224 px, 0.3 s like this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn


@contextmanager
def without_steps() -> Iterator[None]:
    """Inside, an `nn.LSTM`, `nn.GRU` or `nn.RNN` that gets a meta tensor gives outputs of the right shape at once.

    Outputs depend on the input and on all parameters, so that gradients reach what they would reach.
    """
    with (
        patch.object(nn.LSTM, "forward", _lstm),
        patch.object(nn.GRU, "forward", _gru),
        patch.object(nn.RNN, "forward", _rnn),
    ):
        yield


_FORWARD = {kind: kind.forward for kind in (nn.LSTM, nn.GRU, nn.RNN)}


def _outputs(kind: type[nn.RNNBase], layer: nn.RNNBase, given: Any, state: Any) -> Any:
    if not isinstance(given, Tensor) or not given.is_meta or state is not None:
        return _FORWARD[kind](layer, given, state)
    directions = 2 if layer.bidirectional else 1
    width = (layer.proj_size or layer.hidden_size) * directions
    source = given.sum() + sum(parameter.sum() for parameter in layer.parameters())
    sequences = given.shape[:-2] if given.dim() == 2 else given.shape[:1] if layer.batch_first else given.shape[1:2]
    outputs = given.new_empty(*given.shape[:-1], width) + source
    last = given.new_empty(layer.num_layers * directions, *sequences, width // directions) + source
    if kind is not nn.LSTM:
        return outputs, last
    return outputs, (last, given.new_empty(*last.shape[:-1], layer.hidden_size) + source)


def _lstm(layer: nn.RNNBase, given: Any, state: Any = None) -> Any:
    return _outputs(nn.LSTM, layer, given, state)


def _gru(layer: nn.RNNBase, given: Any, state: Any = None) -> Any:
    return _outputs(nn.GRU, layer, given, state)


def _rnn(layer: nn.RNNBase, given: Any, state: Any = None) -> Any:
    return _outputs(nn.RNN, layer, given, state)
