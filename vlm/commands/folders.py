"""Folders that commands write into."""

import tempfile
from pathlib import Path


def require_writable(folder: Path, option: str) -> None:
    """Refuse a folder in which nothing can be written, before any work.

    Args:
        option: the option that chooses another folder, for the message.

    Raises:
        ValueError: names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write in {folder} ({error.strerror}); choose another folder with {option}") from error
