"""Questions about pictures of unequal sizes: generation, scoring, conversations and the viewer."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.image import draw_canvases
from data.sample import BadRecord, Part, Question
from tests.vlm.inference.oracle import logits_by_forward, logprobs_by_forward, longer, row_of
from vlm.connector import ConnectorConfig
from vlm.inference.answer import ModelAnswerer
from vlm.inference.conversation import Conversation
from vlm.inference.draw_concepts import draw_picture, draw_words
from vlm.inference.generate import Request, generate
from vlm.inference.prompts import check_prompt
from vlm.inference.sampling import Sampling
from vlm.inference.viewer import view_concepts
from vlm.model import VisionLanguageModel

SIZES = ((40, 28), (64, 64), (20, 90), (130, 40))
FITS = {
    "native": {"fit": "native", "max_pixels": 48 * 48},
    "tiles": {"fit": "tiles", "max_tiles": 3},
}


def stored(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def question(*sizes: tuple[int, int], id: str = "q") -> Question:
    images = {f"{place}.png": stored(*size) for place, size in enumerate(sizes)}
    content = (*(Part(image=name) for name in images), Part(text="What is this?"))
    return Question(key=id, id=id, content=content, images=images)


@pytest.fixture(scope="module", params=FITS)
def sized(request: pytest.FixtureRequest, model: VisionLanguageModel) -> VisionLanguageModel:
    """The tiny model with another fit, and markers."""
    torch.manual_seed(5)
    encoder = {**model.config.encoder, **FITS[request.param]}  # type: ignore[dict-item]
    connector = ConnectorConfig(merge=2, row_end=True, crop_end=True)
    return VisionLanguageModel(replace(model.config, encoder=encoder, connector=connector)).eval()


def greedy(model: VisionLanguageModel, asked: Question, count: int) -> list[int]:
    """Token by token, each time from pixels and anew."""
    row, ids = row_of(model, asked), []  # type: ignore[var-annotated]
    for _ in range(count):
        ids.append(int(logits_by_forward(model, longer(row, ids))[-1].argmax()))
        if ids[-1] == model.tokenizer.end:
            break
    return ids


def test_answers_of_a_batch_are_those_of_each_picture_alone(sized: VisionLanguageModel) -> None:
    asked = [question(size, id=str(place)) for place, size in enumerate(SIZES)] + [question(*SIZES[2:], id="two")]
    said = generate(sized, [Request(row_of(sized, one), Sampling(max_new_tokens=5)) for one in asked])
    assert [list(one.ids) for one in said] == [greedy(sized, one, 5) for one in asked]


def test_scores_are_those_of_the_whole_row(sized: VisionLanguageModel) -> None:
    asked = [question(size, id=str(place)) for place, size in enumerate(SIZES)]
    scores = ModelAnswerer(sized).score(asked, [["yes", "no"]] * len(asked))
    for one, found in zip(asked, scores, strict=True):
        row = row_of(sized, one)
        for candidate, score in zip(("yes", "no"), found, strict=True):
            ids = [*sized.tokenizer.encode(candidate), sized.tokenizer.end]
            logprobs = logprobs_by_forward(sized, longer(row, ids))[len(row) - 1 : -1]
            assert score == pytest.approx(float(logprobs[range(len(ids)), ids].sum()), abs=1e-3)


def test_a_conversation_goes_on_after_a_picture_of_another_size(sized: VisionLanguageModel) -> None:
    conversation = Conversation(sized)
    for size in SIZES[1:3]:
        images = {"p": stored(*size)}
        *_, last = conversation.say((Part(image="p"), Part(text="What?")), images, Sampling(max_new_tokens=3))
        assert last.generation is not None
    times = conversation.row.positions.max(axis=1)
    starts = np.flatnonzero(~conversation.row.is_image)
    assert (np.diff(times[starts]) > 0).all()  # text never stands where a picture or an earlier text does


def test_a_row_of_another_layout_is_refused(sized: VisionLanguageModel, model: VisionLanguageModel) -> None:
    with pytest.raises(BadRecord, match=r"the prompt has 16 image slots but its 1 pictures take \d+; make it with"):
        check_prompt(sized, row_of(model, question(SIZES[3])), 1)
    check_prompt(sized, row_of(sized, question(SIZES[3])), 1)


def test_the_viewer_draws_each_canvas_on_its_own_grid(sized: VisionLanguageModel) -> None:
    view = view_concepts(sized, question(*SIZES), "yes")
    assert sized.layout is not None
    canvases = []
    for number, (width, height) in enumerate(SIZES, start=1):
        for place, canvas in enumerate(sized.layout.spec.canvases(height, width)):
            tiled = sized.layout.spec.fit == "tiles" and len(sized.layout.spec.canvases(height, width)) > 1
            part = (", whole", f", {canvas.down} × {canvas.across} tiles")[place] if tiled else ""
            canvases.append((f"picture {number}{part}", canvas.height // 16, canvas.width // 16))
    assert [(shown.name, shown.rows, shown.columns) for shown in view.pictures] == canvases
    markers = 0
    for place, shown in enumerate(view.pictures):
        cells = {(token.row, token.column) for token in view.patches(place)}
        assert cells == {(row, column) for row in range(shown.rows) for column in range(shown.columns)}
        assert len(view.patches(place)) == len(cells)
        assert draw_picture(view, place).count('class="cell"') == len(cells)
        with Image.open(io.BytesIO(shown.webp)) as drawn:
            assert drawn.width * shown.rows == pytest.approx(drawn.height * shown.columns, rel=0.02)
        markers += sum(token.picture == place and token.marker for token in view.tokens)
    assert markers == sum(sized.layout.plan(height, width).is_marker.sum() for width, height in SIZES)
    assert draw_words(view).count('class="picture-mark"') == len(canvases)


def test_a_large_drawing_shows_what_the_small_one_does(sized: VisionLanguageModel) -> None:
    assert sized.layout is not None
    data, spec = stored(130, 40), sized.layout.spec
    canvases = spec.canvases(40, 130)
    larger = [replace(canvas, height=2 * canvas.height, width=2 * canvas.width) for canvas in canvases]
    for small, large in zip(draw_canvases(data, spec, canvases), draw_canvases(data, spec, larger), strict=True):
        shrunk = torch.nn.functional.avg_pool2d(large.float(), 2)
        assert (shrunk - small.float()).abs().mean() < 12  # but for the edges


def test_the_cache_on_disk_answers_as_pixels_do(sized: VisionLanguageModel, tmp_path: Path) -> None:
    from encoders.feature_cache import FeatureCache
    from encoders.protocol import encoder_key

    cache = FeatureCache(tmp_path, encoder_key(sized.encoder))
    asked = [question(*SIZES)]
    first = ModelAnswerer(sized, cache).score(asked, [["yes"]])
    assert len(cache) == sum(len(picture.crops) for picture in row_of(sized, asked[0]).pictures)
    assert ModelAnswerer(sized, cache).score(asked, [["yes"]]) == first
    assert first[0][0] == pytest.approx(ModelAnswerer(sized).score(asked, [["yes"]])[0][0], abs=0.1)  # fp16
