"""How long a prompt is: in tokens of a given tokenizer, pictures included.

In: a prompt's parts. Out: its tokens as data/text.py lays them out, the marks of the chat format among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from data.image_layout import ImageLayout
from data.image_spec import ImageSpec
from data.sample import Part
from data.text import prompt_row
from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Measure:
    """A tokenizer, and how many slots a picture takes (None: pictures cannot be shown)."""

    tokenizer: Tokenizer
    layout: ImageLayout | None

    def count(self, content: Sequence[Part], images: Mapping[str, bytes]) -> int:
        """Tokens of the prompt, up to where the answer begins.

        Raises:
            ValueError: it has a picture and there is no layout.
        """
        return len(prompt_row(content, images, self.tokenizer, self.layout))

    def count_text(self, text: str) -> int:
        """Tokens of a piece of text."""
        return len(self.tokenizer.encode(text))

    def count_picture(self, data: bytes) -> int:
        """Slots of a stored picture; 0 without a layout."""
        return 0 if self.layout is None else self.layout.plan_stored(data).slots

    @cached_property
    def name(self) -> str:
        """Said in results: lengths by another measure are other lengths."""
        layout = "no pictures" if self.layout is None else self.layout.fingerprint()
        return f"{self.tokenizer.fingerprint()}/{layout}"


@lru_cache(maxsize=1)
def demo_measure() -> Measure:
    """The demo's tokenizer, and 9 slots a picture, as in configs/demo.yaml: for a model that is not known."""
    spec = ImageSpec(size_px=192, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Measure(Tokenizer("demo"), ImageLayout(spec, (3, 3)))
