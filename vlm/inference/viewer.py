"""Show what a model merges: which tokens and which patches of a picture become one concept.

In: a question and an answer. Out: a `ConceptView`, that draw_concepts.py turns into HTML.
A concept is made of the tokens after the previous closing token up to and including its own closing token. This is not
the concept that a token reads (`chunks.concept_of_token`): that is the last one that was closed.
"""

import io
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from data.image import ImageSpec, prepare_image
from data.sample import Question
from data.text import Row, prompt_row
from data.tokenizer import Tokenizer
from vlm.backbone import Documents
from vlm.inference.generate import Request, generate
from vlm.inference.pictures import PictureFeatures, answering
from vlm.inference.prompts import embed_answers, embed_prompts
from vlm.inference.sampling import Sampling
from vlm.model import VisionLanguageModel

SHOWN_PX = 384  # side of a picture on the page; what the model sees is often smaller, and hard for people to read


@dataclass(frozen=True)
class TokenView:
    """One token: a piece of text, or a slot of a picture."""

    text: str
    special: bool  # True for the marks of the template, such as the start
    closes: bool  # True where it closes its concept
    prob: float  # the chance of that
    concept: int  # the concept it becomes part of, counted from 0
    picture: int | None = None  # which picture it shows a patch of
    row: int = 0
    column: int = 0


@dataclass(frozen=True)
class PictureView:
    """One picture as the model sees it, in its square, and its grid of slots."""

    webp: bytes
    rows: int
    columns: int


@dataclass(frozen=True)
class ConceptView:
    """One prompt with its answer, token by token."""

    tokens: tuple[TokenView, ...]
    pictures: tuple[PictureView, ...]
    answer_start: int  # place of the first token of the answer
    answer: str

    @property
    def num_concepts(self) -> int:
        """Concepts that were closed; the tokens after the last closing one are not part of any yet."""
        return sum(token.closes for token in self.tokens)

    def concepts_of(self, picture: int) -> int:
        """Concepts that hold at least one patch of a picture."""
        return len({token.concept for token in self.tokens if token.picture == picture})


def view_concepts(
    model: VisionLanguageModel,
    question: Question,
    answer: str | None = None,
    *,
    max_new_tokens: int = 16,
    pictures: PictureFeatures | None = None,
) -> ConceptView:
    """Read a prompt and an answer, and tell what was merged.

    Args:
        answer: None asks the model.

    Raises:
        ValueError: the model cannot answer; says why.
    """
    tokenizer = model.tokenizer
    pictures = pictures or PictureFeatures(model)
    row = prompt_row(question.content, question.images, tokenizer, model.layout)
    if answer is None:
        said = generate(model, [Request(row, Sampling(max_new_tokens=max_new_tokens))], pictures=pictures)[0]
        if said.error is not None:
            raise ValueError(said.error)
        ids, answer = list(said.ids), said.text
    else:
        ids = [*tokenizer.encode(answer), tokenizer.end]
    with answering(model, pictures):
        asked, answered = embed_prompts(model, [row], pictures), embed_answers(model, [(row, ids)])
        chunks = model.backbone(
            torch.cat([asked.x, answered.x]),
            Documents.from_lengths([len(row) + len(ids)]),
            positions=torch.cat([asked.positions, answered.positions]),
            is_image=torch.cat([asked.is_image, answered.is_image]),
        ).chunks
    num_tokens = len(row) + len(ids)
    # A model without a chunker (`chunk: null`) merges nothing: each token is a concept of its own.
    closes = torch.ones(num_tokens, dtype=torch.bool) if chunks is None else chunks.closes.cpu()
    probs = [1.0] * num_tokens if chunks is None else chunks.prob.tolist()
    names = _special_names(tokenizer)
    places = _places(row)
    tokens = tuple(
        TokenView(
            text=names.get(one) or _shown(tokenizer.decode([one])),
            special=one in names,
            closes=bool(closes[index]),
            prob=probs[index],
            concept=concept,
            **places.get(index, {}),
        )
        for index, (one, concept) in enumerate(zip([*row.ids.tolist(), *ids], concepts(closes).tolist(), strict=True))
    )
    return ConceptView(tokens, _picture_views(model, row), len(row), answer)


def concepts(closes: Bool[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The concept that each token of one document becomes part of: as many as were closed before it."""
    return closes.long().cumsum(0) - closes.long()


def _places(row: Row) -> dict[int, dict[str, int]]:
    """Picture, row and column of each image slot. Row and column count from the time at which the picture stands."""
    slots = row.is_image.nonzero()[0].tolist()
    if not slots:
        return {}
    size = len(slots) // len(row.pictures)
    return {
        slot: {
            "picture": place // size,
            "row": int(row.positions[slot, 1] - row.positions[slot, 0]),
            "column": int(row.positions[slot, 2] - row.positions[slot, 0]),
        }
        for place, slot in enumerate(slots)
    }


def _picture_views(model: VisionLanguageModel, row: Row) -> tuple[PictureView, ...]:
    layout = model.layout
    if layout is None:
        return ()
    return tuple(PictureView(_webp(picture.data, layout.spec), layout.rows, layout.columns) for picture in row.pictures)


def _webp(data: bytes, spec: ImageSpec) -> bytes:
    # The same fit as the model's, only larger: the fit does not depend on the size.
    pixels = prepare_image(data, replace(spec, size_px=max(spec.size_px, SHOWN_PX)))
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "WEBP", quality=80, method=6)
    return file.getvalue()


def _special_names(tokenizer: Tokenizer) -> dict[int, str]:
    return {
        tokenizer.bos: "start",
        tokenizer.end: "end",
        tokenizer.system: "system",
        tokenizer.user: "user",
        tokenizer.assistant: "assistant",
        tokenizer.image: "picture",
        tokenizer.pad: "pad",
    }


def _shown(text: str) -> str:
    """A token as people can see it: line ends drawn, half a character (a byte-level token) as a box."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace("\ufffd", "▯") or "▯"
