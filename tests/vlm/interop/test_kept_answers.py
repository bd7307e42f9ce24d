import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data.sample import Part, Question
from vlm.inference.answer import ModelAnswerer
from vlm.interop import kept_answers
from vlm.interop.answer_journal import AnswerJournal
from vlm.interop.harness_requests import Prompt, prompt_of_text
from vlm.interop.kept_answers import Job, KeptAnswers
from vlm.model import VisionLanguageModel

COLOURS = ("red", "green", "blue", "black", "white")
GREEDY = {"max_new_tokens": 5, "until": []}


def prompt(number: int) -> Prompt:
    colour = COLOURS[number % 5]
    return prompt_of_text(f"task/test/{number}", f"What is {number}?", [Image.new("RGB", (32, 32), colour)])


def jobs(count: int, settings: dict[str, Any] = GREEDY, start: int = 0) -> list[Job]:
    return [Job(f"task/test/{n}", settings, lambda n=n: prompt(n)) for n in range(start, start + count)]


def answers(model: VisionLanguageModel, place: Path | None, rank: int = 0) -> KeptAnswers:
    answerer = ModelAnswerer(model)
    return KeptAnswers(answerer, AnswerJournal(place, answerer.fingerprint(), rank))


def question(number: int) -> Question:
    parts = (Part(image="0.png"), Part(text=f"What is {number}?"))
    return Question(key="q", id="q", content=parts, images=prompt(number).images)


def test_answers_are_those_that_evaluation_gets(model: VisionLanguageModel) -> None:
    expected = ModelAnswerer(model).generate([question(number) for number in range(9)], 5)
    got = answers(model, None).write(jobs(9))
    assert [one.output for one in got] == [one.text for one in expected]
    assert len({one.output for one in got}) > 1


def test_ratings_are_those_that_evaluation_gets(model: VisionLanguageModel) -> None:
    texts = [["red", "blue"], ["yes", "no", "a dog"]]
    expected = ModelAnswerer(model).score([question(0), question(1)], texts)
    got = answers(model, None).rate([(lambda n=n: prompt(n), texts[n]) for n in range(2)])
    assert [[one.logprob for one in row] for row in got] == expected
    assert not any(one.is_greedy for row in got for one in row)


def test_what_the_model_would_say_is_greedy(model: VisionLanguageModel) -> None:
    silent = copy.deepcopy(model)  # its first token is the end or not, depending on the prompt
    with torch.no_grad():
        silent.embed.weight[model.tokenizer.end] *= 30
    kept = answers(silent, None)
    said = [one.output for one in kept.write(jobs(20))]
    rated = kept.rate([(lambda n=n: prompt(n), ["", "yes"]) for n in range(20)])
    assert [one.is_greedy for one, _ in rated] == [output == "" for output in said]
    assert {output == "" for output in said} == {True, False}
    assert not any(other.is_greedy for _, other in rated)


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_answers(
    model: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_answers, "CHUNK", 4)
    whole = [one.output for one in answers(model, None).write(jobs(12))]
    made: list[int] = []

    def stop_at(done: int, total: int) -> None:
        made.append(done)
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers(model, tmp_path).write(jobs(12), stop_at)
    (path,) = tmp_path.rglob("answers-*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"id": "task/test/9", "bli')  # cut while it was written
    later = answers(model, tmp_path, rank=1)  # of another number of ranks
    asked: list[int] = []
    generate = later._generate
    monkeypatch.setattr(later, "_generate", lambda requests: asked.append(len(requests)) or generate(requests))
    assert [one.output for one in later.write(jobs(12))] == whole
    assert sum(asked) == 4
    assert [one.output for one in answers(model, tmp_path).write(jobs(12))] == whole


def test_another_picture_another_setting_or_another_model_is_another_answer(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    kept = answers(model, tmp_path)
    kept.write(jobs(1))
    key = next(iter(kept._journal._kept))
    other = prompt_of_text("task/test/0", "What is 0?", [Image.new("RGB", (32, 32), "blue")])
    assert kept._asked(jobs(1)[0], {})[0] == key
    assert kept._asked(Job("task/test/0", GREEDY, lambda: other), {})[0] != key
    assert kept._asked(jobs(1, {"max_new_tokens": 6, "until": []})[0], {})[0] != key
    assert len(AnswerJournal(tmp_path, "another model")) == 0


def test_asked_twice_a_greedy_answer_is_made_once_and_a_drawn_one_twice(model: VisionLanguageModel) -> None:
    kept = answers(model, None)
    greedy = kept.write([*jobs(1), *jobs(1)])
    assert greedy[0] == greedy[1]
    drawn = {"max_new_tokens": 12, "temperature": 5.0, "until": []}
    one, two = kept.write([*jobs(1, drawn), *jobs(1, drawn)])
    assert one.output != two.output
    assert [one, two] == answers(model, None).write([*jobs(1, drawn), *jobs(1, drawn)])


def test_faults_are_told_at_the_end_and_the_others_are_kept(model: VisionLanguageModel, tmp_path: Path) -> None:
    long = Job("task/test/long", GREEDY, lambda: prompt_of_text("task/test/long", "word " * 500, None))
    kept = answers(model, tmp_path)
    with pytest.raises(ValueError, match=r"1 of 4 requests could not be answered.*task/test/long.*positions"):
        kept.write([*jobs(2), long, *jobs(1, start=2)])
    assert len(AnswerJournal(tmp_path, ModelAnswerer(model).fingerprint())) == 3
    groups = [(lambda n=n: prompt(n), ["yes"]) for n in range(2)]
    with pytest.raises(ValueError, match=r"1 of 3 requests could not be answered"):
        kept.rate([groups[0], (long.prompt, ["yes"]), groups[1]])
    assert len(AnswerJournal(tmp_path, ModelAnswerer(model).fingerprint())) == 5


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="journal=off"):
        AnswerJournal(tmp_path / "file" / "x", "model")
