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
        ask: make conversations: the user shows the picture and asks this, the assistant says the caption.
        benchmark: make questions to score by instead, whose right answers are the captions.

    Raises:
        ValueError: a benchmark without a question, or an empty question.
    """

    sources: tuple[Path, ...]
    images: Path | None = None
    captions: Path | None = None
    skip_uncaptioned: bool = False
    together: bool = False
    ask: str | None = None
    benchmark: bool = False

    def __post_init__(self) -> None:
        if self.ask is not None and not self.ask.strip():
            raise ValueError("--ask needs a question, such as 'What is this?', got none")
        if self.benchmark and self.ask is None:
            raise ValueError(
                "--benchmark makes questions of captions: say what is asked, such as --ask 'What is this?'"
            )
