"""The `eval` command, from its arguments to what it prints and writes."""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vlm.commands.eval
from data.sample import Question
from data.shards import write_shard
from eval.subset import spread
from vlm.cli import main
from vlm.commands.eval import kept_results
from vlm.inference.answer import ModelAnswerer
from vlm.model import VisionLanguageModel

Make = Callable[..., Question]


@pytest.fixture(scope="session")
def run_folder(model: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def shard(make_question: Make, tmp_path: Path) -> Path:
    def record(number: int) -> tuple[str, Mapping[str, bytes]]:
        colour = ("red", "blue", "green")[number % 3]
        told: dict[str, Any] = {
            "id": f"q{number}",
            "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": f"Which colour, {number}?"}],
            "choices": ["red", "blue", "green"],
            "answer": number % 3,
        }
        return f"{number:04d}", {
            "json": json.dumps(told).encode(),
            "0.png": make_question("", colour).images["0.png"],
        }

    path = tmp_path / "colours.tar"
    write_shard(path, [record(number) for number in range(7)])
    return path


def call(command: ModuleType, *arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return int(command.run(parser.parse_args([str(argument) for argument in arguments])))


def test_eval_scores_any_shard_and_keeps_every_answer(
    run_folder: Path, shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("--model", run_folder / "model", "--shards", shard, "--out", out)
    assert call(vlm.commands.eval, *arguments, "--mode", "choose") == 0
    assert "shards/colours" in capsys.readouterr().out
    scores = json.loads((out / "scores.json").read_text())["shards/colours"]
    assert set(scores) == {"score", "n", "low", "high", "chance", "majority", "blind", "unparsed"}
    assert scores["n"] == 7
    assert scores["chance"] == pytest.approx(1 / 3)
    assert len((out / "shards" / "colours" / "predictions.jsonl").read_text().splitlines()) == 14  # 7 seen, 7 blind
    assert call(vlm.commands.eval, *arguments, "--mode", "choose", "--json") == 0
    assert json.loads(capsys.readouterr().out)["shards/colours"] == scores


def test_eval_without_blind_questions_has_no_blind_score(run_folder: Path, shard: Path, tmp_path: Path) -> None:
    arguments = ("--model", run_folder / "model", "--shards", shard, "--mode", "generate", "--out", tmp_path / "out")
    assert call(vlm.commands.eval, *arguments, "--blind", "off") == 0
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["shards/colours"]["blind"] is None


def test_text_is_rated_in_bits_per_byte(
    run_folder: Path, model: VisionLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ("There is a cat.", "How many dogs are there?")
    path, out = tmp_path / "some.jsonl", tmp_path / "out"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert (
        call(vlm.commands.eval, "--model", run_folder / "model", "--shards", path, "--mode", "rate", "--out", out) == 0
    )
    assert "share of 8 bits per byte saved" in capsys.readouterr().out
    found = json.loads((out / "text" / "some-jsonl" / "result.json").read_text())
    documents = [Question(key=text, id=text, content=(), images={}) for text in texts]
    rated = ModelAnswerer(model).score(documents, [[text] for text in texts])
    expected = -sum(one for (one,) in rated) / math.log(2) / sum(map(len, texts))
    assert found["details"]["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert (found["n"], found["score"]) == (2, pytest.approx(max(0, 1 - expected / 8), abs=1e-5))


def test_a_limit_is_spread_over_all_and_kept_apart(run_folder: Path, shard: Path) -> None:
    assert (
        call(vlm.commands.eval, "--model", run_folder / "model", "--shards", shard, "--mode", "choose", "--limit", 3)
        == 0
    )
    assert not (run_folder / "scores.json").exists()
    folder = run_folder / "limit-3"
    assert json.loads((folder / "scores.json").read_text())["shards/colours"]["n"] == 3
    lines = (folder / "shards" / "colours" / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {f"q{place}" for place in spread(7, 3)}


def test_one_task_more_keeps_the_scores_of_the_others(run_folder: Path, shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = tmp_path / "other.tar"
    other.write_bytes(shard.read_bytes())
    for source in (shard, other):
        call(
            vlm.commands.eval,
            *("--model", run_folder / "model", "--shards", source, "--mode", "choose", "--out", out, "--blind", "off"),
        )
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores) == {"shards/colours", "shards/other"}
    assert kept_results(out, "another model") == {}


def test_bad_records_of_shards_are_refused_before_the_model_is_read_or_skipped_and_counted(
    run_folder: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [("b0", {"json": b'{"id": "b0", "content": [{"type": "image", "image": "0.png"}], "answers": ["x"]}'})]
    bad.append(("b1", {"json": b'{"id": "b1", "content": "Which?", "choices": ["a", "b"], "answer": 2}'}))
    both = tmp_path / "both"
    both.mkdir()
    (both / "good.tar").write_bytes(shard.read_bytes())
    write_shard(both / "bad.tar", bad)
    arguments = ("--model", run_folder / "model", "--shards", both, "--mode", "choose", "--out", tmp_path / "out")
    assert call(vlm.commands.eval, *arguments, "--skip-bad") == 0
    result = json.loads((tmp_path / "out" / "shards" / "both" / "result.json").read_text())
    assert (result["n"], result["failed"]) == (7, 2)
    monkeypatch.setattr(VisionLanguageModel, "from_pretrained", lambda folder: pytest.fail("the model was loaded"))
    with pytest.raises(
        ValueError, match=r"record 'b0' names the picture '0.png' but has none \(and 1 more\).*--skip-bad"
    ):
        call(vlm.commands.eval, *arguments)


def test_a_rule_is_that_of_all_tasks_named(run_folder: Path, shard: Path, tmp_path: Path) -> None:
    arguments = ("--model", run_folder / "model", "--shards", shard, "--mode", "choose", "--out", tmp_path / "out")
    assert call(vlm.commands.eval, *arguments, "--rule", "per-token", "--blind", "off") == 0
    result = json.loads((tmp_path / "out" / "shards" / "colours" / "result.json").read_text())
    assert result["details"]["rule"] == "log-probability per token incl. end token"


def test_eval_words_are_commands_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "tasks"]) == 0
    assert "demo/presence" in capsys.readouterr().out
    assert main(["eval", "taks"]) == 2
    assert (
        "unknown word 'taks' after `vlm eval`; known: compare, export, prepare, report, rescore, tasks"
        in capsys.readouterr().err
    )
    assert main(["eval", "prepare", "demo/caption", "--from", "."]) == 2
    assert "task demo/caption needs no preparation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "demo", "--prompt", "official"], "has no prompt 'official'; its variants: none"),
        (["--tasks", "demo", "--rule", "letter"], "the prompt must show the options"),
        (["--tasks", "demo", "--skip-bad"], "--skip-bad is for --shards"),
        (["--tasks", "demo/nothing"], "unknown task 'demo/nothing'.*demo/presence"),
        (["--shards", "nowhere.tar", "--mode", "choose"], "nowhere.tar"),
        (["--shards", "any.tar"], "--shards needs --mode"),
        (["--tasks", "demo", "--mode", "choose"], "--mode is for --shards"),
        (["--tasks", "demo", "--limit", "0"], "--limit must be at least 1"),
    ],
)
def test_eval_refuses_bad_input_before_any_work(
    run_folder: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionLanguageModel, "from_pretrained", lambda folder: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=message):
        call(vlm.commands.eval, "--model", run_folder / "model", *arguments)


def test_eval_refuses_a_folder_that_is_no_model_and_a_place_that_cannot_be_written(
    run_folder: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionLanguageModel, "from_pretrained", lambda folder: pytest.fail("the model was loaded"))
    arguments = ("--shards", shard, "--mode", "choose")
    with pytest.raises(ValueError, match="no model folder at"):
        call(vlm.commands.eval, "--model", tmp_path / "nothing", *arguments)
    half = tmp_path / "half" / "model"
    half.mkdir(parents=True)
    for name in ("model.safetensors", "config.yaml"):
        (half / name).touch()
    with pytest.raises(ValueError, match=r"lacks tokenizer\.json"):
        call(vlm.commands.eval, "--model", half, *arguments)
    assert [path.name for path in half.parent.iterdir()] == ["model"]
    with pytest.raises(ValueError, match=r"cannot write in .*colours\.tar.*choose another folder with --out"):
        call(vlm.commands.eval, "--model", run_folder / "model", *arguments, "--out", shard / "out")
