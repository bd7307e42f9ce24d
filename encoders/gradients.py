"""Whether an encoder learns: a forward and a backward pass in training mode, and the memory that they need."""

from typing import Any

import torch
from torch import Tensor

from encoders.check import Note, Trial, features_of, in_mode

NAMED = 3  # parameters that a sentence names


def probe_gradients(trial: Trial) -> tuple[str, int]:
    """Run two pictures in training mode, and back to every parameter that learns and to the pictures.

    Returns:
        What was found, and the bytes that the backward pass of one picture needs.

    Raises:
        ValueError: training mode fails, a parameter or the pictures get no gradient, or one that is not finite.
    """
    learns = {name: one for name, one in trial.module.named_parameters() if one.requires_grad}
    kept = {name: buffer.clone() for name, buffer in trial.module.named_buffers()}
    images = [image.clone().requires_grad_() for image in trial.images[:2]]
    storages: dict[int, int] = {}
    weights = {one.untyped_storage().data_ptr() for one in trial.module.parameters()}
    try:
        # torch.autograd.grad, not backward(): gradients that the encoder already has stay as they are.
        with in_mode(trial.module, training=True), torch.enable_grad(), _count_stored(storages, weights):
            vectors = features_of(trial.encoder, images, f"in training mode {trial.name}").vectors
        if not vectors.requires_grad:
            return _without_gradient(trial, bool(learns)), 0
        # Random weights: behind a norm, the plain sum of all vectors does not depend on the pictures.
        generator = torch.Generator().manual_seed(2)
        loss = (vectors.float() * torch.randn(vectors.shape, generator=generator).to(vectors.device)).sum()
        gradients = _gradients(trial, loss, [*learns.values(), *images])
    finally:
        with torch.no_grad():
            for name, buffer in trial.module.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])
    told = _judge(trial, vectors, dict(zip(learns, gradients, strict=False)), gradients[len(learns) :])
    return told, sum(storages.values()) // len(images)


class _count_stored(torch.autograd.graph.saved_tensors_hooks):
    """Add up what autograd stores for the backward pass; weights are there anyway and do not count."""

    def __init__(self, storages: dict[int, int], weights: set[int]) -> None:
        def pack(tensor: Tensor) -> tuple[Tensor, int]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor.detach(), tensor._version

        def unpack(packed: tuple[Tensor, int]) -> Tensor:
            tensor, version = packed
            # With hooks, torch leaves out this check of its own.
            if tensor._version != version:
                raise RuntimeError("a tensor that the backward pass needs was changed in place")
            return tensor

        super().__init__(pack, unpack)


def _gradients(trial: Trial, loss: Tensor, inputs: list[Any]) -> list[Tensor | None]:
    try:
        return list(torch.autograd.grad(loss, inputs, allow_unused=True))
    except RuntimeError as error:
        raise ValueError(f"the backward pass of {trial.name} failed: {error}; does encode work in place?") from error


def _without_gradient(trial: Trial, learns: bool) -> str:
    if learns:
        raise ValueError(
            f"{trial.name}.encode gave vectors without a gradient in training mode, though it has parameters that learn; "
            "is there a no_grad or a detach in it? Or freeze it: requires_grad_(False)"
        )
    return Note("frozen: no parameter learns, and none can behind the pictures")


def _judge(
    trial: Trial, vectors: Tensor, of_parameters: dict[str, Tensor | None], of_images: list[Tensor | None]
) -> str:
    if not bool(vectors.isfinite().all()):
        raise ValueError(f"{trial.name}.encode gave vectors that are not finite in training mode, though not in eval()")
    dead = [name for name, gradient in of_parameters.items() if gradient is None]
    if dead:
        raise ValueError(
            f"{len(dead)} parameters of {trial.name} get no gradient ({named(dead)}): encode does not use them, and "
            "training on several processes would wait for them; use, delete or freeze them (requires_grad_(False))"
        )
    bad = [name for name, gradient in of_parameters.items() if gradient is not None and not gradient.isfinite().all()]
    if bad:
        raise ValueError(f"the gradients of {named(bad)} in {trial.name} are not finite; check its norms and roots")
    if any(gradient is None or not gradient.isfinite().all() for gradient in of_images):
        raise ValueError(
            f"the pictures of {trial.name} get no gradient, or one that is not finite, in training mode; "
            "is the first step detached or rounded? What stands before it could not learn"
        )
    still = [name for name, gradient in of_parameters.items() if gradient is not None and not gradient.any()]
    if still:
        return Note(
            f"{len(still)} of {len(of_parameters)} parameters get zero ({named(still)}), as behind layers that start at zero"
        )
    if not of_parameters:
        return Note("frozen: no parameter learns; the pictures get a gradient")
    return f"{len(of_parameters)} of {len(of_parameters)} parameters and the pictures get one, in training mode"


def named(names: list[str]) -> str:
    """The first few, and that there are more."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
