"""Load a trained model for use: checked, on its device, ready to answer."""

from pathlib import Path

import torch

from vlm.model import VisionLanguageModel


def load_model(folder: str | Path, device: str | None = None) -> VisionLanguageModel:
    """A saved model in evaluation mode.

    Args:
        device: a torch device; None takes the GPU where there is one.

    Raises:
        ValueError: the folder is no model folder, or the device is not there.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # an AssertionError: torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {chosen!r} cannot be used ({reason}); choose another, such as cpu") from error
    return VisionLanguageModel.from_pretrained(folder).to(chosen).eval()
