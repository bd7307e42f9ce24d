"""What a user asks of a conversion, as far as it decides what is written."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a source is read.

    Args:
        sources: files, or folders of them.
        images: the folder that pictures are named from; None: the folder of the file that names them.
        captions: a table of pictures and captions, for a folder of pictures.
        skip_uncaptioned: leave pictures out that have no caption.
        together: make one record of all captions of a picture.
    """

    sources: tuple[Path, ...]
    images: Path | None = None
    captions: Path | None = None
    skip_uncaptioned: bool = False
    together: bool = False
