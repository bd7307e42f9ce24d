"""The torchmetrics: equal to the pure functions, on one process and on two that share, pad and repeat the samples."""

import json
import multiprocessing
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.caption_scores import caption_scores
from eval.group_scores import category_scores, circular_scores, mme_scores, pope_scores
from eval.rank_scores import (
    AllRightScores,
    CaptionScores,
    CircularScores,
    MMEScores,
    SampleScores,
    YesNoScores,
    sample_uid,
)

RNG = random.Random(3)
COUNT = 41  # odd: two ranks cannot share it without a repeat
UIDS = [sample_uid(f"question {i}") for i in range(COUNT)]
SCORES = [RNG.choice([0.0, 0.3, 0.6, 0.9, 1.0]) for _ in range(COUNT)]
CATEGORIES = [i % 3 for i in range(COUNT)]
NAMES = ("random", "popular", "adversarial")
ANSWERS = [RNG.choice(["yes", "no", "other"]) for _ in range(COUNT)]
TRUTHS = [RNG.choice(["yes", "no"]) for _ in range(COUNT)]
CAPTIONS = {f"picture {i}": f"a {RNG.choice(['dog', 'café', 'red bus'])} on the {i % 4} street" for i in range(9)}
CAPTIONS["picture 4"] = ""
REFERENCES = {name: [f"a dog on {name}", "the red bus on the street"] for name in CAPTIONS}
CIRCULAR = [turn * 1_000_000 + question for question in range(10) for turn in range(4)]
PICTURES = [i // 2 for i in range(40)]
TASKS = [(i // 2) % 2 for i in range(40)]
HITS = [float(RNG.random() < 0.7) for _ in range(40)]


def fill(share: list[int]) -> dict[str, Any]:
    """Every metric with these places of the samples, in small batches."""
    metrics = {
        "mean": SampleScores(NAMES),
        "yes_no": YesNoScores(NAMES),
        "all_right": AllRightScores(),
        "circular": CircularScores(),
        "mme": MMEScores(("color", "code_reasoning")),
        "captions": CaptionScores(REFERENCES, tokenizer="plain"),
    }
    names = list(CAPTIONS)
    for start in range(0, len(share), 4):
        batch = share[start : start + 4]
        kinds = [CATEGORIES[i] for i in batch]
        metrics["mean"].update([UIDS[i] for i in batch], [SCORES[i] for i in batch], categories=kinds)
        said = YesNoScores.said([ANSWERS[i] for i in batch])
        truths = [int(TRUTHS[i] == "yes") for i in batch]
        metrics["yes_no"].update([UIDS[i] for i in batch], said, groups=truths, categories=kinds)
        batch = [i for i in batch if i < 40]
        hits = [HITS[i] for i in batch]
        pictures = [PICTURES[i] for i in batch]
        metrics["all_right"].update([UIDS[i] for i in batch], hits, groups=pictures)
        metrics["circular"].update([CIRCULAR[i] for i in batch], hits)
        metrics["mme"].update([UIDS[i] for i in batch], hits, groups=pictures, categories=[TASKS[i] for i in batch])
        shown = [names[i] for i in batch if i < len(names)]
        metrics["captions"].update(shown, [CAPTIONS[name] for name in shown])
    return metrics


def figures(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: {key: float(value) for key, value in metric.compute().items()} for name, metric in metrics.items()}


def alone() -> dict[str, dict[str, float]]:
    return figures(fill(list(range(COUNT))))


# As a distributed sampler does: strided, and filled up with the first samples until both have as many.
PADDED = [*range(COUNT), 0]
SHARES = {"padded": [PADDED[0::2], PADDED[1::2]], "one without samples": [list(range(COUNT)), []]}


def run_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        found = {name: figures(fill(shares[rank])) for name, shares in SHARES.items()}
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.long
def test_two_ranks_give_the_very_figures_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=run_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=240)
    assert [process.exitcode for process in ranks] == [0, 0]
    wanted = dict.fromkeys(SHARES, alone())
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [wanted, wanted]


def test_one_rank_gives_what_the_pure_functions_give() -> None:
    found = alone()
    by_name = category_scores(SCORES, [NAMES[i] for i in CATEGORIES])
    assert found["mean"]["score"] == pytest.approx(by_name["micro"])
    assert found["mean"]["macro"] == pytest.approx(by_name["macro"])
    pope = pope_scores(ANSWERS, TRUTHS, [NAMES[i] for i in CATEGORIES])
    assert found["yes_no"]["f1"] == pytest.approx(pope["f1"])
    assert found["yes_no"]["mean_f1"] == pytest.approx(pope["mean_f1"])
    assert found["yes_no"]["yes_rate"] == pytest.approx(ANSWERS.count("yes") / COUNT)
    assert found["circular"]["circular"] == pytest.approx(circular_scores(CIRCULAR, HITS)["circular"])
    mme = mme_scores(HITS, [("color", "code_reasoning")[i] for i in TASKS], PICTURES)
    assert found["mme"]["perception"] == pytest.approx(mme["perception"])
    assert found["mme"]["score/code_reasoning"] == pytest.approx(mme["cognition"])
    pairs = [HITS[i] and HITS[i + 1] for i in range(0, 40, 2)]
    assert found["all_right"]["score"] == pytest.approx(sum(pairs) / 20)
    captions = caption_scores(CAPTIONS, REFERENCES, tokenizer="plain")
    assert found["captions"]["CIDEr"] == pytest.approx(captions["CIDEr"])
    assert found["captions"]["BLEU-4"] == pytest.approx(captions["BLEU-4"])


def test_a_repeated_sample_counts_once_and_batches_do_not_matter() -> None:
    metric = SampleScores()
    metric.update(torch.tensor([5, 7]), torch.tensor([1.0, 0.0]))
    metric.update(torch.tensor([5]), torch.tensor([1.0]))
    assert float(metric.compute()["score"]) == 0.5
    assert float(metric.compute()["n"]) == 2


def test_a_metric_begins_anew_after_reset() -> None:
    metric = SampleScores()
    metric.update([1], [1.0])
    metric.reset()
    metric.update([1], [0.0])
    assert float(metric.compute()["score"]) == 0.0


def test_a_uid_is_the_same_everywhere_and_fits_a_tensor() -> None:
    assert sample_uid("a") == 2340832890917691671
    uids = {sample_uid(str(i)) for i in range(10_000)}
    assert len(uids) == 10_000
    assert max(uids) < 2**63


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_samples_and_uneven_batches_are_errors() -> None:
    metric = SampleScores(("a",))
    with pytest.raises(ValueError, match="has seen no samples"):
        metric.compute()
    with pytest.raises(ValueError, match="2 uids but 1 scores"):
        metric.update([1, 2], [1.0])
    with pytest.raises(ValueError, match=r"place among 1, got \[1\]"):
        metric.update([1], [1.0], categories=[1])
    with pytest.raises(ValueError, match="no reference captions for picture 'x'"):
        CaptionScores(REFERENCES).update(["x"], ["a"])
