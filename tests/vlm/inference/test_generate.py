from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.batch import collate
from data.sample import Question
from data.text import Row, prompt_row
from vlm.inference.generate import Sampling, generate, score
from vlm.inference.pictures import PictureFeatures
from vlm.model import VisionLanguageModel


@pytest.fixture
def questions(make_question: Callable[..., Question]) -> list[Question]:
    """Ragged on purpose: one picture, two pictures, none, and a longer text."""
    return [
        make_question("What is this?", "red", id="one"),
        make_question("Is it the same twice?", "red", "blue", id="two"),
        make_question("How many dogs?", id="blind"),
        make_question("What is this? Is there a cat, or are there one, two or three dogs in it?", "green", id="long"),
    ]


def row_of(model: VisionLanguageModel, question: Question) -> Row:
    return prompt_row(question.content, question.images, model.tokenizer, model.layout)


def longer(row: Row, ids: list[int]) -> Row:
    """The row with text after it. Prompts end in text, so time goes on from the last token."""
    time = row.positions[-1, 0] + 1 + np.arange(len(ids))
    return replace(
        row,
        ids=np.concatenate([row.ids, np.array(ids, dtype=np.int64)]),
        loss=np.concatenate([row.loss, np.ones(len(ids), dtype=bool)]),
        is_image=np.concatenate([row.is_image, np.zeros(len(ids), dtype=bool)]),
        positions=np.concatenate([row.positions, np.repeat(time[:, None], 3, axis=1)]),
    )


@torch.no_grad()
def logprobs_by_forward(model: VisionLanguageModel, row: Row) -> torch.Tensor:
    """The oracle: the whole row from pixels, without cache, memo or neighbours -> (n v)."""
    assert model.layout is not None
    return model.logits(model(collate([row], model.layout.spec)).hidden).log_softmax(1)


def test_greedy_generation_is_the_argmax_of_a_full_forward_at_every_token(
    model: VisionLanguageModel, questions: list[Question]
) -> None:
    rows = [row_of(model, question) for question in questions]
    for row, said in zip(rows, generate(model, rows, 12), strict=True):
        ids: list[int] = []
        for token, logprob in zip(said.ids, said.logprobs, strict=True):
            expected = logprobs_by_forward(model, longer(row, ids))[-1]
            assert int(expected.argmax()) == token
            assert logprob == pytest.approx(float(expected.max()), abs=1e-4)
            ids.append(token)
        assert said.text == model.tokenizer.decode(ids)


def test_a_prompt_gets_the_same_answer_alone_and_among_others(
    model: VisionLanguageModel, questions: list[Question]
) -> None:
    rows = [row_of(model, question) for question in questions]
    together = generate(model, rows, 12)
    assert [said.ids for said in together] == [generate(model, [row], 12)[0].ids for row in rows]
    assert [said.ids for said in together] == [said.ids for said in generate(model, rows, 12, token_budget=40)]


def test_sequences_that_end_drop_out_and_the_others_go_on(
    model: VisionLanguageModel, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row_of(model, question) for question in questions]
    free = generate(model, rows, 10)
    # What one prompt says third now ends every answer, so that prompts end at different times.
    monkeypatch.setattr(model.tokenizer, "end", free[0].ids[2])
    for said, before in zip(generate(model, rows, 10), free, strict=True):
        end = before.ids.index(free[0].ids[2]) + 1 if free[0].ids[2] in before.ids else len(before.ids)
        assert said.ids == before.ids[:end]
        assert said.ended == (free[0].ids[2] in before.ids)


def test_scores_are_the_sums_that_one_forward_for_each_candidate_gives(
    model: VisionLanguageModel, questions: list[Question]
) -> None:
    rows = [row_of(model, question) for question in questions]
    candidates = [["yes", "no", "a red square"], ["one"], ["three dogs", ""], ["cat", "two"]]
    expected = []
    for row, listed in zip(rows, candidates, strict=True):
        sums = []
        for candidate in listed:
            ids = [*model.tokenizer.encode(candidate), model.tokenizer.end]
            logprob = logprobs_by_forward(model, longer(row, ids))
            sums.append(sum(float(logprob[len(row) - 1 + place, token]) for place, token in enumerate(ids)))
        expected.append(sums)
    for budget in (8192, 50):
        for got, wanted in zip(score(model, rows, candidates, token_budget=budget), expected, strict=True):
            assert got == pytest.approx(wanted, abs=1e-4)


def test_the_score_of_a_greedy_answer_is_the_sum_of_its_logprobs(
    model: VisionLanguageModel, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of(model, questions[0])
    monkeypatch.setattr(model.tokenizer, "end", generate(model, [row], 3)[0].ids[2])
    said = generate(model, [row], 3)[0]
    monkeypatch.setattr(model.tokenizer, "encode", lambda text: list(said.ids[:-1]))
    assert score(model, [row], [["stands for the answer"]])[0][0] == pytest.approx(sum(said.logprobs), abs=1e-4)


def test_a_picture_is_encoded_once_for_all_candidates_and_calls(
    model: VisionLanguageModel, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.encoder is not None
    encoded: list[int] = []
    encode = model.encoder.encode
    monkeypatch.setattr(model.encoder, "encode", lambda images: encoded.append(len(images)) or encode(images))
    rows = [row_of(model, question) for question in questions]
    pictures = PictureFeatures(model)
    score(model, rows, [["yes", "no", "cat"]] * 4, pictures=pictures, token_budget=60)
    generate(model, rows, 4, pictures=pictures)
    assert sum(encoded) == 3  # red (of two prompts), blue, green


def test_features_that_do_not_fit_are_forgotten_and_computed_again(
    model: VisionLanguageModel, questions: list[Question]
) -> None:
    rows = [row_of(model, question) for question in questions]
    small = PictureFeatures(model, max_bytes=1)
    assert [said.ids for said in generate(model, rows, 4, pictures=small, token_budget=40)] == [
        said.ids for said in generate(model, rows, 4)
    ]
    keys = {picture.feature_key for row in rows for picture in row.pictures}
    assert len(keys) == 3
    assert sum(key in small for key in keys) < 3


def test_training_mode_and_the_feature_cache_are_put_back(
    model: VisionLanguageModel, questions: list[Question]
) -> None:
    model.train()
    try:
        noisy = [generate(model, [row_of(model, questions[0])], 8)[0].ids for _ in range(3)]
        assert model.training
        assert model.cached_features is None
    finally:
        model.eval()
    assert set(noisy) == {generate(model, [row_of(model, questions[0])], 8)[0].ids}


def test_drawing_is_reproducible_and_does_not_hang_on_the_budget(
    model: VisionLanguageModel, questions: list[Question]
) -> None:
    rows = [row_of(model, question) for question in questions]
    first = generate(model, rows, 8, temperature=1.0, top_p=0.9, seed=5)
    again = generate(model, rows, 8, temperature=1.0, top_p=0.9, seed=5, token_budget=40)
    assert [said.ids for said in first] == [said.ids for said in again]
    assert [said.ids for said in first] != [said.ids for said in generate(model, rows, 8, temperature=1.0, seed=6)]


def test_draws_follow_the_distribution_within_top_p() -> None:
    prob = torch.tensor([0.5, 0.3, 0.15, 0.05])
    streams = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    drawn = Sampling(1.0, 0.8).choose(prob.log().repeat(4000, 1), streams)
    share = torch.bincount(drawn, minlength=4) / 4000
    # 0.5 + 0.3 reaches the share of 0.8, so the rest is cut off; three standard errors are 0.024.
    torch.testing.assert_close(share, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.024, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 4, "temperature": -1.0}, "temperature must be 0"),
        ({"max_new_tokens": 4, "top_p": 0.5}, "no effect at temperature 0"),
        ({"max_new_tokens": 4, "temperature": 1.0, "top_p": 1.5}, "share of probability"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    model: VisionLanguageModel, questions: list[Question], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, [row_of(model, questions[2])], **settings)  # type: ignore[arg-type]


def test_nothing_asked_is_nothing_answered(model: VisionLanguageModel) -> None:
    assert generate(model, [], 4) == []
    assert score(model, [], []) == []
