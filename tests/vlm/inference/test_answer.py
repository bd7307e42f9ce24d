from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.sample import BadRecord, Part, Question, Sample
from data.text import sample_row
from encoders.feature_cache import FeatureCache
from encoders.protocol import encoder_key
from eval.task import Answerer
from tests.vlm.inference.oracle import logprobs_by_forward
from vlm.inference.answer import ModelAnswerer
from vlm.inference.pictures import PictureFeatures
from vlm.model import VisionLanguageModel

Make = Callable[..., Question]


def test_a_model_is_an_answerer(model: VisionLanguageModel) -> None:
    assert isinstance(ModelAnswerer(model), Answerer)


def test_answers_and_scores_come_in_the_order_of_the_questions(model: VisionLanguageModel, make_question: Make) -> None:
    questions = [make_question("What is this?", colour, id=colour) for colour in ("red", "blue", "green")]
    answerer = ModelAnswerer(model, token_budget=60)
    assert answerer.generate(questions[::-1], 5) == answerer.generate(questions, 5)[::-1]
    forward = answerer.score(questions, [["yes", "no"]] * 3)
    for there, back in zip(forward, answerer.score(questions[::-1], [["no", "yes"]] * 3)[::-1], strict=True):
        assert there == pytest.approx(back[::-1], abs=1e-4)


def test_a_blind_question_is_answered_without_its_picture(model: VisionLanguageModel, make_question: Make) -> None:
    answerer = ModelAnswerer(model)
    red, blue = (make_question("What is this?", colour) for colour in ("red", "blue"))
    blind = answerer.score([red.without_images(), blue.without_images()], [["yes", "no"]] * 2)
    seen = answerer.score([red, blue], [["yes", "no"]] * 2)
    assert blind[0] == pytest.approx(blind[1], abs=1e-5)
    assert abs(seen[0][0] - seen[1][0]) > 1e-3
    assert len(answerer.prompt(red)) == len(answerer.prompt(red.without_images())) + 16


def test_features_on_disk_give_the_scores_that_pixels_give(
    model: VisionLanguageModel, make_question: Make, tmp_path: Path
) -> None:
    questions = [make_question("What is this?", "red"), make_question("And this?", "blue", "red")]
    cache = FeatureCache(tmp_path, encoder_key(model.encoder))
    expected = ModelAnswerer(model).score(questions, [["yes", "no"]] * 2)
    for _ in range(2):  # filled, then read
        got = ModelAnswerer(model, cache).score(questions, [["yes", "no"]] * 2)
        # Features on disk are fp16; this random model's answers move by far less than they do between pictures.
        torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), atol=2e-2, rtol=0)
    assert len(cache.keys()) == 2


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_picture_cut_short_is_a_bad_record_that_names_its_question(
    model: VisionLanguageModel, make_question: Make, tmp_path: Path, on_disk: bool
) -> None:
    good = make_question("What is this?", "red", id="good")
    cut = replace(good, id="the cut one", images={"0.png": good.images["0.png"][:90]})
    cache = FeatureCache(tmp_path, encoder_key(model.encoder)) if on_disk else None
    with pytest.raises(BadRecord, match=r"the cut one.*cannot be decoded"):
        ModelAnswerer(model, cache).score([good, cut], [["yes"], ["yes"]])
    with pytest.raises(BadRecord, match=r"the cut one.*cannot be decoded"):
        ModelAnswerer(model, cache).generate([good, cut], 2)


def test_a_question_longer_than_the_positions_is_a_bad_record(
    model: VisionLanguageModel, make_question: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = replace(model.config.backbone, max_positions=20)
    monkeypatch.setattr(model, "config", replace(model.config, backbone=backbone))
    short, long = make_question("What?"), make_question("What? " * 20, id="the long one")
    answerer = ModelAnswerer(model)
    assert len(answerer.generate([short], 2)) == len(answerer.score([short], [["yes"]])) == 1
    with pytest.raises(BadRecord, match=r"the long one: the prompt takes \d+ positions"):
        answerer.generate([short, long], 2)
    with pytest.raises(BadRecord, match=r"the long one: the prompt takes \d+ positions"):
        answerer.score([short, long], [["yes"], ["yes"]])


def test_the_fingerprint_changes_with_the_weights_alone(model: VisionLanguageModel) -> None:
    before = ModelAnswerer(model).fingerprint()
    assert ModelAnswerer(model, token_budget=10).fingerprint() == before
    with torch.no_grad():
        weight = model.backbone.norm.weight
        weight[0] += 1
        changed = ModelAnswerer(model).fingerprint()
        weight[0] -= 1
    assert changed != before
    assert ModelAnswerer(model).fingerprint() == before


def test_a_picture_for_a_model_without_encoder_is_refused_by_name(
    model: VisionLanguageModel, make_question: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "layout", None)
    with pytest.raises(ValueError, match=r"question q: .*no image encoder"):
        ModelAnswerer(model).generate([make_question("What is this?", "red")], 4)


def test_the_memory_of_pictures_holds_what_was_prepared(model: VisionLanguageModel, make_question: Make) -> None:
    pictures = PictureFeatures(model)
    row = ModelAnswerer(model).prompt(make_question("What is this?", "red"))
    pictures.prepare([row])
    key = row.pictures[0].feature_key
    assert key in pictures
    assert pictures.read([key]).vectors.shape == (16, 24)
    assert pictures.read([key, key]).grids.tolist() == [[4, 4]] * 2


def test_a_text_is_rated_as_the_document_it_would_be_in_training(model: VisionLanguageModel) -> None:
    text = "There is a cat in the picture."
    document = Question(key="k", id="k", content=(), images={}, answers=(text,))
    ((rated,),) = ModelAnswerer(model).score([document], [[text]])
    sample = Sample("k", "k", (Part(text=text),), None, {})
    row = sample_row(sample, model.tokenizer, model.layout)
    logprobs = logprobs_by_forward(model, row)[:-1].gather(1, torch.from_numpy(row.ids[1:])[:, None])
    assert row.loss[1:].all()
    assert rated == pytest.approx(logprobs.sum().item(), abs=1e-3)
