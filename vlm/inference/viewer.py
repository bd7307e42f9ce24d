"""Show what a model merges: which tokens and which patches of a picture become one concept.

In: a question and an answer. Out: a `ConceptView`, that draw_concepts.py turns into HTML.
A concept is made of the tokens after the previous closing token up to and including its own closing token. This is not
the concept that a token reads (`chunks.concept_of_token`): that is the last one that was closed.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from torch import Tensor

from data.image import draw_canvases
from data.image_header import upright_size
from data.image_spec import Canvas
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
    picture: int | None = None  # which picture of the view it shows a patch of
    row: int = 0
    column: int = 0
    marker: bool = False  # True for a learned mark behind a row or a tile, which shows no patch


@dataclass(frozen=True)
class PictureView:
    """One picture as the model sees it, on its canvas, and its grid of slots. One that is cut into tiles is two: the small
    one of the whole, and all tiles together."""

    name: str
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
        return len({token.concept for token in self.patches(picture)})

    def patches(self, picture: int) -> tuple["TokenView", ...]:
        """The slots of a picture that show a patch of it."""
        return tuple(token for token in self.tokens if token.picture == picture and not token.marker)


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
        ids = tokenizer.answer_ids(answer)
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
    places = _places(model, row)
    tokens = tuple(
        TokenView(
            text=names.get(one) or _shown(tokenizer.decode([one])),
            special=one in names,
            closes=bool(closes[index]),
            prob=probs[index],
            concept=concept,
            **places.get(index, {}),  # type: ignore[arg-type]
        )
        for index, (one, concept) in enumerate(zip([*row.ids.tolist(), *ids], concepts(closes).tolist(), strict=True))
    )
    return ConceptView(tokens, _picture_views(model, row), len(row), answer)


def concepts(closes: Bool[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The concept that each token of one document becomes part of: as many as were closed before it."""
    return closes.long().cumsum(0) - closes.long()


def _places(model: VisionLanguageModel, row: Row) -> dict[int, dict[str, int]]:
    """Picture of the view, row and column of each image slot, and whether it is a marker."""
    if model.layout is None:
        return {}
    places: list[dict[str, int]] = []
    view = 0
    for picture in row.pictures:
        plan = model.layout.plan_stored(picture.data)
        canvases = np.repeat([crop.canvas for crop in plan.crops], plan.slots_per_crop)
        for canvas, (time, down, across), is_marker in zip(canvases, plan.positions, plan.is_marker, strict=True):
            # Row and column count from the time at which the canvas stands.
            place = {"row": int(down - time), "column": int(across - time), "marker": bool(is_marker)}
            places.append({"picture": view + int(canvas), **place})
        view += plan.crops[-1].canvas + 1
    return dict(zip(row.is_image.nonzero()[0].tolist(), places, strict=True))


def _picture_views(model: VisionLanguageModel, row: Row) -> tuple[PictureView, ...]:
    layout, views = model.layout, []
    for number, picture in enumerate(row.pictures if layout is not None else (), start=1):
        assert layout is not None
        crops = layout.plan_stored(picture.data).crops
        width, height = upright_size(picture.data)
        canvases = layout.spec.canvases(height, width)
        shown = draw_canvases(picture.data, layout.spec, [_enlarged(canvas) for canvas in canvases])
        for place, (canvas, pixels) in enumerate(zip(canvases, shown, strict=True)):
            part = "" if len(canvases) == 1 else (", whole", f", {canvas.down} × {canvas.across} tiles")[place]
            crop = next(crop for crop in crops if crop.canvas == place)
            grid = crop.rows * canvas.down, crop.columns * canvas.across
            views.append(PictureView(f"picture {number}{part}", _webp(pixels), *grid))
    return tuple(views)


def _enlarged(canvas: Canvas) -> Canvas:
    """The same canvas for people: small ones are drawn from more of the picture's own pixels."""
    scale = max(1.0, SHOWN_PX / max(canvas.height, canvas.width))
    return replace(canvas, height=max(1, round(canvas.height * scale)), width=max(1, round(canvas.width * scale)))


def _webp(pixels: UInt8[Tensor, "3 H W"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "WEBP", quality=80, method=6)
    return file.getvalue()


def _special_names(tokenizer: Tokenizer) -> dict[int, str]:
    return {number: name for name, number in tokenizer.special.items()} | {
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
