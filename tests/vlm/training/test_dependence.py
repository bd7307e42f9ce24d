import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batch import Batch, collate
from data.sample import Part, Sample
from data.text import Row, sample_row
from tests.vlm.training.ten_steps import model, png, row
from vlm.model import VisionLanguageModel
from vlm.training.dependence import Dependence, ImageDependence, document_losses
from vlm.training.loss import answered_cross_entropy


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return model().vlm.eval()


def batch_of(vlm: VisionLanguageModel, rows: Sequence[Row]) -> Batch:
    batch = collate(rows, vlm.encoder.spec)
    batch.check()
    return batch


def hidden(vlm: VisionLanguageModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return vlm(batch).hidden


def loss_alone(vlm: VisionLanguageModel, one: Row, picture: Row | None = None) -> float:
    """Of a document by itself, with its own pictures or with those of another one."""
    batch = batch_of(vlm, [one if picture is None else replace(one, pictures=picture.pictures)])
    with torch.no_grad():
        return float(answered_cross_entropy(vlm(batch).hidden, batch.labels, vlm.head_weight))


def written(vlm: VisionLanguageModel, name: str, parts: Sequence[str | None]) -> tuple[Row, Row]:
    """A document of texts and pictures (None), and the one that has the texts alone."""
    images = {f"{name}{i}": png(sum(map(ord, name)) + i) for i, part in enumerate(parts) if part is None}
    content = tuple(Part(text=part) if part is not None else Part(image=f"{name}{i}") for i, part in enumerate(parts))
    texts = tuple(part for part in content if part.text is not None)
    both = [
        sample_row(Sample(key=name, id=name, content=some, messages=None, images=found), vlm.tokenizer, vlm.layout)
        for some, found in ((content, images), (texts, {}))
    ]
    return both[0], both[1]


def test_losses_of_documents_add_up_to_that_of_the_batch(vlm: VisionLanguageModel) -> None:
    rows = [row(i, 5 + 3 * i, picture=i % 2 == 0) for i in range(5)]
    batch = batch_of(vlm, rows)
    found = document_losses(vlm, hidden(vlm, batch), batch.labels, batch.lengths)
    assert found.tolist() == pytest.approx([loss_alone(vlm, one) for one in rows], abs=1e-4)


def test_the_sums_are_those_of_each_document_by_itself(vlm: VisionLanguageModel) -> None:
    documents = [
        written(vlm, "one", [None, "a red ball on a table"]),
        written(vlm, "text", ["no picture here"]),
        written(vlm, "two", ["a", None, "and", None, "differ"]),
        written(vlm, "three", ["see", None, "a blue door"]),
        written(vlm, "four", [None, "and", None, "again"]),
        written(vlm, "five", [None, "nothing"]),
    ]
    rows = [full for full, _ in documents]
    batch = batch_of(vlm, rows)
    sums = ImageDependence(1).measure(vlm, batch, hidden(vlm, batch), 0)
    assert sums is not None
    # The next one with as many pictures, round the row.
    donor = {0: 3, 3: 5, 5: 0, 2: 4, 4: 2}
    true = np.array([loss_alone(vlm, rows[place]) for place in donor])
    other = np.array([loss_alone(vlm, rows[place], rows[of]) for place, of in donor.items()])
    none = np.array([loss_alone(vlm, documents[place][1]) for place in donor])
    answers = np.array([rows[place].loss[1:].sum() for place in donor])
    expected = [5, answers.sum(), true.sum(), other.sum(), none.sum()]
    expected += [((other - true) ** 2).sum(), ((other - true) * answers).sum(), (answers**2).sum()]
    assert sums.tolist() == pytest.approx(expected, abs=1e-3)
    assert abs(other - true).min() > 1e-3  # or the equality would say little


def test_no_document_gets_a_picture_of_its_own_and_a_lone_one_that_of_the_row_before(vlm: VisionLanguageModel) -> None:
    measure = ImageDependence(5)
    (same, text), (other, _) = written(vlm, "same", [None, "a red ball"]), written(vlm, "other", [None, "a door"])
    lone, again = batch_of(vlm, [same, text]), batch_of(vlm, [same, same])
    assert measure.measure(vlm, lone, hidden(vlm, lone), 0) is None
    assert measure.measure(vlm, again, hidden(vlm, again), 0) is None
    later = batch_of(vlm, [other])
    assert measure.measure(vlm, later, hidden(vlm, later), 1) is None  # that row was of another source
    sums = measure.measure(vlm, later, hidden(vlm, later), 0)
    assert sums is not None
    assert sums[3].item() == pytest.approx(loss_alone(vlm, other, same), abs=1e-4)
    measure.begin()
    assert measure.measure(vlm, later, hidden(vlm, later), 0) is None


def test_as_many_rows_of_each_source_are_measured_as_asked(vlm: VisionLanguageModel) -> None:
    documents = [written(vlm, name, [None, "a red ball"]) for name in ("one", "two", "three")]
    batch, text = batch_of(vlm, [full for full, _ in documents]), batch_of(vlm, [documents[0][1]])
    measure = ImageDependence(2)
    of = hidden(vlm, batch)
    assert measure.measure(vlm, text, hidden(vlm, text), 0) is None
    found = [measure.measure(vlm, batch, of, source) is not None for source in (0, 0, 0, 1)]
    assert found == [True, True, False, True]
    assert ImageDependence(0).measure(vlm, batch, of, 0) is None
    with pytest.raises(ValueError, match="image_dependence_rows must not be negative, got -1"):
        ImageDependence(-1)


def sums_of(true: np.ndarray, other: np.ndarray, answers: np.ndarray) -> list[float]:
    change = other - true
    squares = (change**2).sum(), (change * answers).sum(), (answers**2).sum()
    return [float(one) for one in (len(true), answers.sum(), true.sum(), other.sum(), 0.0, *squares)]


def test_the_standard_error_is_that_of_drawing_other_samples() -> None:
    random = np.random.default_rng(0)
    answers = random.integers(1, 9, 400).astype(float)
    true, other = answers * random.normal(2, 0.3, 400), answers * random.normal(2.1, 0.3, 400)
    found = Dependence.from_sums(sums_of(true, other, answers))
    assert found is not None
    drawn = [random.integers(0, 400, 400) for _ in range(2000)]
    differences = [(other[d] - true[d]).sum() / answers[d].sum() for d in drawn]
    assert found.standard_error == pytest.approx(np.std(differences), rel=0.1)
    assert found.other_picture - found.true_picture == pytest.approx(np.mean(differences), abs=0.005)


@pytest.mark.parametrize(
    ("samples", "mean", "spread", "absent"),
    [
        (100, 0.0, 0.5, True),
        (100, 0.3, 0.5, False),
        (100, -0.3, 0.5, True),
        (100, 1e-5, 1e-6, True),  # sure, but of no weight
        (4, 0.0, 0.5, False),  # too few to say
    ],
)
def test_dependence_is_absent_where_another_picture_does_as_well(
    samples: int, mean: float, spread: float, absent: bool
) -> None:
    noise = np.random.default_rng(0).normal(size=samples)
    noise = (noise - noise.mean()) / noise.std()
    true, answers = np.full(samples, 2.0), np.ones(samples)
    found = Dependence.from_sums(sums_of(true, true + mean + spread * noise, answers))
    assert found is not None
    assert found.is_absent is absent


def test_without_samples_there_are_no_figures_and_with_one_no_error() -> None:
    assert Dependence.from_sums([0.0] * 8) is None
    one = Dependence.from_sums([1.0, 2.0, 4.0, 5.0, 6.0, 1.0, 2.0, 4.0])
    assert one is not None
    assert math.isinf(one.standard_error)
    assert one.words() == "loss 2.000 with its picture, 2.500 with another's (+0.500), 3.000 with none (1 samples)"
    assert one.figures() == {"loss_true_picture": 2.0, "loss_other_picture": 2.5, "loss_no_picture": 3.0}


def test_a_document_without_an_answer_or_that_begins_with_its_picture_is_no_sample(vlm: VisionLanguageModel) -> None:
    mute = [written(vlm, name, [None, "a red ball"])[0] for name in ("one", "two")]
    mute = [replace(one, loss=np.zeros_like(one.loss)) for one in mute]
    begins = [row(i, 6, picture=True) for i in (1, 2)]
    assert all(one.is_image[0] for one in begins)
    for rows in (mute, begins):
        batch = batch_of(vlm, rows)
        assert ImageDependence(1).measure(vlm, batch, hidden(vlm, batch), 0) is None
