"""What bf16 does to an encoder's vectors: under autocast, as it trains, and with weights in bf16, as it answers."""

import copy
from typing import cast

import torch
from torch import Tensor

from encoders.check import Note, Trial, features_of
from encoders.protocol import VisionEncoder

FAR_OFF = 0.5  # a share of the vectors' length


def probe_autocast(trial: Trial) -> str:
    """Features under bf16 autocast beside those of full precision."""
    with torch.autocast(trial.images[0].device.type, torch.bfloat16):
        vectors = features_of(trial.encoder, trial.images[:1], trial.name).vectors
    return _near(trial, vectors, "under autocast to bf16", "keep norms and positions in float32 there")


def probe_bf16_weights(trial: Trial) -> str:
    """Features with weights and pictures in bf16."""
    small = copy.deepcopy(trial.module).to(torch.bfloat16)
    image = trial.images[0].to(torch.bfloat16)
    try:
        vectors = features_of(cast(VisionEncoder, small), [image], trial.name).vectors
    except ValueError as error:
        raise ValueError(f"in bf16 {error}; make no tensor of a fixed dtype in encode") from error
    if vectors.dtype != torch.bfloat16:
        raise ValueError(
            f"{trial.name}.encode gave {vectors.dtype} with weights and pictures in bf16; "
            "give the dtype of the weights, the connector's are of that dtype too"
        )
    return _near(trial, vectors, "with weights in bf16", "keep norms and positions in float32 inside")


def _near(trial: Trial, vectors: Tensor, when: str, mend: str) -> str:
    if not bool(vectors.isfinite().all()):
        raise ValueError(f"{trial.name}.encode gave numbers that are not finite {when}; {mend}")
    before = trial.together.split()[0]
    off = difference(vectors, before)
    told = f"{off:.1%} off full precision {when}"
    # bf16 has 8 bits: each step rounds by up to 0.4 %, and a deep model adds that up to a few per cent.
    if off <= FAR_OFF:
        return Note(told) if off > FAR_OFF / 5 else told
    rounded = copy.deepcopy(trial.module).to(torch.bfloat16).to(before.dtype)
    by_weights = difference(features_of(cast(VisionEncoder, rounded), trial.images[:1], trial.name).vectors, before)
    # A few tens of layers, each of which rounds: timm's visformer_tiny, random, is 10 times as far off as by its weights.
    if off > 20 * by_weights:
        raise ValueError(f"{trial.name}.encode is {told}; {mend}")
    return Note(f"{told}; rounding its weights alone gives {by_weights:.1%}: with these weights small changes grow")


def difference(vectors: Tensor, others: Tensor) -> float:
    """Length of the difference as a share of the length of `others`."""
    return float((vectors.float() - others.float()).norm() / others.float().norm().clamp_min(1e-12))
