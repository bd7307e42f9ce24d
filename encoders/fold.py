"""Fold batch norms into the convolutions before them: the same features in fewer passes, for frozen use."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(model: nn.Module, run: Callable[[], Tensor]) -> int:
    """Fold, in place, every batch norm whose input is the output of a convolution; the model must be in eval().

    Pairs are those seen while running, not those that stand side by side in the code.

    Args:
        model: changed in place; left as it was where folding would change its output.
        run: runs the model on an example, without gradients.

    Returns:
        How many batch norms were folded.
    """
    producer: dict[int, nn.Conv2d] = {}
    alive: list[Tensor] = []  # keeps the outputs from being freed, so that an id names one tensor
    pairs: dict[nn.Module, nn.Conv2d] = {}

    def note_output(conv: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        producer[id(output)] = conv
        alive.append(output)

    def note_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in producer:
            pairs[norm] = producer[id(inputs[0])]

    hooks = [m.register_forward_hook(note_output) for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(note_input) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = run()
    for hook in hooks:
        hook.remove()

    names = {module: name for name, module in model.named_modules()}
    replaced: list[tuple[str, nn.Module]] = []
    for norm, conv in pairs.items():
        assert isinstance(norm, nn.BatchNorm2d)
        # timm's BatchNormAct2d carries the activation that follows; torch's own carries nothing.
        after = (
            nn.Sequential(cast(nn.Module, norm.drop), cast(nn.Module, norm.act))
            if hasattr(norm, "act")
            else nn.Identity()
        )
        replaced += [(names[conv], conv), (names[norm], norm)]
        model.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        model.set_submodule(names[norm], after)
    # A convolution read by more than its norm would now be wrong: compare, and take all back if so.
    if not torch.allclose(run(), before, rtol=0, atol=1e-4 * float(before.abs().max())):
        for name, module in reversed(replaced):
            model.set_submodule(name, module)
        return 0
    return len(pairs)
