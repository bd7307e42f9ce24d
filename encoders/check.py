"""What the rest of the toolkit relies on in an encoder, tried with three random pictures.

In: an encoder with weights. Out: nothing, or a sentence that says what is wrong and how to mend it.
`probes.py` goes further: other sizes, gradients, precision, copies, cost.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from encoders.protocol import Features, VisionEncoder, check_parts

NUM_PICTURES = 3


class Note(str):
    """A finding that the user should know and that is no fault."""


@dataclass
class Trial:
    """An encoder, the pictures that it is shown, and what it made of them."""

    encoder: VisionEncoder
    name: str
    images: list[Tensor]  # each (3, size, size)
    together: Features  # of all pictures in one call, in evaluation mode without gradients
    encode_s: float  # that this call took

    @property
    def module(self) -> nn.Module:
        """The encoder as the module that it is."""
        return cast(nn.Module, self.encoder)

    @property
    def size_px(self) -> int:
        """Side of the pictures."""
        return self.encoder.spec.size_px

    @property
    def grid(self) -> tuple[int, int]:
        """What the encoder says of pictures of that size."""
        return self.encoder.grid(self.size_px, self.size_px)


def check_encoder(encoder: object) -> None:
    """Run a few random pictures through an encoder, in evaluation mode.

    Raises:
        ValueError: a sentence that says what is wrong and how to mend it.
    """
    trial = begin(encoder)
    with in_mode(trial.module, training=False), torch.no_grad():
        for check in CHECKS.values():
            check(trial)


def begin(encoder: object) -> Trial:
    """Show an encoder the pictures for the first time.

    Raises:
        ValueError: it lacks a part, has no weights, or fails on the pictures.
    """
    name = type(encoder).__name__
    check_parts(encoder, name)
    module, vision = cast(nn.Module, encoder), cast(VisionEncoder, encoder)
    parameter = next(module.parameters(), torch.empty(0))
    if parameter.is_meta:
        raise ValueError(f"{name} has no weights yet; call materialise() first")
    size = vision.spec.size_px
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, size, size, generator=generator).to(parameter) for _ in range(NUM_PICTURES)]
    given = [image.clone() for image in images]
    with in_mode(module, training=False), torch.no_grad():
        started = time.perf_counter()
        together = features_of(vision, images, name)
        seconds = time.perf_counter() - started
    if not all(torch.equal(image, before) for image, before in zip(images, given, strict=True)):
        raise ValueError(f"{name}.encode changed its input; work on a copy, other parts read the same pictures")
    return Trial(vision, name, images, together, seconds)


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; afterwards each part is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def features_of(encoder: VisionEncoder, images: list[Tensor], name: str) -> Features:
    """What `encode` gives.

    Raises:
        ValueError: it failed, or gave something else than Features.
    """
    try:
        features: object = encoder.encode(images)
    except Exception as error:
        sizes = " and ".join(dict.fromkeys(f"{image.shape[1]} x {image.shape[2]}" for image in images))
        number = f"{len(images)} picture{'s' if len(images) > 1 else ''}"
        raise ValueError(f"{name}.encode failed on {number} of {sizes}: {error}") from error
    if not isinstance(features, Features):
        raise ValueError(
            f"{name}.encode gave a {type(features).__name__}; it must give encoders.Features(vectors, grids)"
        )
    return features


def check_grid(trial: Trial) -> str:
    """Two ints, and the same ones that encode gives."""
    name, size, grid = trial.name, trial.size_px, trial.grid
    if not (isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(side, int) and side > 0 for side in grid)):
        raise ValueError(
            f"{name}.grid({size}, {size}) gave {grid!r}; it must give two ints of 1 or more, (rows, columns)"
        )
    if trial.together.grids.tolist() != [list(grid)] * NUM_PICTURES:
        raise ValueError(
            f"{name}.encode gave grids {trial.together.grids.tolist()} for {NUM_PICTURES} pictures of {size} x {size}, "
            f"but grid({size}, {size}) says {grid} each; data lay out slots by grid(), so the two must agree"
        )
    return f"{grid[0]} x {grid[1]} for a picture of {size} x {size}, as encode gives it"


def check_count(trial: Trial) -> str:
    """One vector for each place of the grid, and no token besides."""
    rows, columns = trial.grid
    vectors = trial.together.vectors
    over, rest = divmod(len(vectors) - NUM_PICTURES * rows * columns, NUM_PICTURES)
    if over or rest:
        each = "" if rest else f"; {abs(over)} too {'many' if over > 0 else 'few'} for each picture"
        raise ValueError(_misshapen(trial) + f"{each}; are class or register tokens still in it?")
    return f"{rows * columns} vectors a picture, none beside the grid"


def check_width(trial: Trial) -> str:
    """Vectors as long as `width` says."""
    if trial.together.vectors.shape[1] != trial.encoder.width:
        raise ValueError(
            _misshapen(trial) + f"; set width to {trial.together.vectors.shape[1]} or mend what encode gives"
        )
    return f"{trial.encoder.width}, as encode gives it"


def _misshapen(trial: Trial) -> str:
    rows, columns = trial.grid
    return (
        f"{trial.name}.encode gave vectors of shape {tuple(trial.together.vectors.shape)}; "
        f"needed ({NUM_PICTURES * rows * columns}, {trial.encoder.width}), "
        f"that is {NUM_PICTURES} pictures x {rows} x {columns} and width {trial.encoder.width}"
    )


def check_numbers(trial: Trial) -> str:
    """Finite floating-point numbers."""
    vectors = trial.together.vectors
    if not vectors.is_floating_point() or not bool(vectors.isfinite().all()):
        raise ValueError(
            f"{trial.name}.encode gave vectors ({vectors.dtype}) that are not all finite numbers "
            "on random pictures; check its weights"
        )
    values = vectors.float()
    return f"finite {str(vectors.dtype).removeprefix('torch.')}, mean {values.mean():.2g}, deviation {values.std():.2g}"


def check_alone(trial: Trial) -> str:
    """A picture gets the same vectors each time, whatever stands beside it."""
    # 1e-4 of the largest value: batched kernels may add in another order, a leak between pictures is far larger.
    tolerance = 1e-4 * max(1.0, float(trial.together.vectors.abs().max()))
    for place, (image, within) in enumerate(zip(trial.images, trial.together.split(), strict=True)):
        alone = features_of(trial.encoder, [image], trial.name).vectors
        if alone.shape == within.shape and torch.allclose(alone, within, rtol=0, atol=tolerance):
            continue
        again = features_of(trial.encoder, trial.images, trial.name).vectors
        if not torch.allclose(again, trial.together.vectors, rtol=0, atol=tolerance):
            raise ValueError(
                f"{trial.name}.encode gave two results for the same pictures; "
                "is there randomness (dropout) left in eval()?"
            )
        if alone.shape != within.shape:
            raise ValueError(
                f"{trial.name}.encode gave {len(alone)} vectors for picture {place} alone and {len(within)} in a batch "
                f"of {NUM_PICTURES}; the number must depend on the picture's size only"
            )
        raise ValueError(
            f"{trial.name}.encode gave picture {place} other vectors alone than in a batch of {NUM_PICTURES} "
            f"(largest difference {float((alone - within).abs().max()):.2g}); "
            "do pictures see each other, or is their order changed?"
        )
    return f"the same vectors again, alone as in a batch of {NUM_PICTURES}"


def check_use(trial: Trial) -> str:
    """Different pictures get different vectors."""
    first, second, *_ = trial.together.split()
    if torch.equal(first, second):
        raise ValueError(f"{trial.name}.encode gave two different pictures the same vectors; does it use its input?")
    return "different pictures get different vectors"


def check_none(trial: Trial) -> str:
    """A batch without a picture."""
    none, width = trial.encoder.encode([]), trial.encoder.width
    if tuple(none.vectors.shape) != (0, width) or tuple(none.grids.shape) != (0, 2):
        raise ValueError(
            f"{trial.name}.encode([]) gave vectors {tuple(none.vectors.shape)} and grids {tuple(none.grids.shape)}; "
            f"needed (0, {width}) and (0, 2), because a batch may hold no picture. encode_by_size does this"
        )
    return "gives (0, width)"


# In the order in which they rely on each other: a later one presumes that the earlier ones hold.
CHECKS: Mapping[str, Callable[[Trial], str]] = {
    "grid": check_grid,
    "prefix tokens": check_count,
    "width": check_width,
    "numbers": check_numbers,
    "repeatable": check_alone,
    "input": check_use,
    "no picture": check_none,
}
