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
    chosen = usable_device(device)
    return VisionLanguageModel.from_pretrained(folder).to(chosen).eval()


def usable_device(name: str | None = None) -> torch.device:
    """The torch device of that name, or the GPU where there is one.

    Raises:
        ValueError: torch knows no such device, it is not there, or nothing is computed on it.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
        torch.ones(1, device=device).item()  # a value back: the meta device gives none
    except (RuntimeError, AssertionError) as error:  # an AssertionError: torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {chosen!r} cannot be used ({reason}); choose another, such as cpu") from error
    return device
