import math

import pytest

from vlm.backbone import RatioController
from vlm.bench.compression import hold


def test_the_weight_grows_while_compression_is_off_on_either_side() -> None:
    for num_closed in (300, 900):
        controller = RatioController(2.0)
        for _ in range(10):
            controller.update(1000, num_closed)
        assert controller.weight == pytest.approx(0.03 * math.e)
        assert controller.measured == pytest.approx(1000 / num_closed)


def test_the_weight_falls_at_the_target_and_stays_within_its_bounds() -> None:
    controller = RatioController(4.0, weight=0.011)
    for _ in range(100):
        controller.update(1000, 250)
    assert controller.weight == 0.01
    for _ in range(1000):
        controller.update(1000, 10)
    assert controller.weight == 10.0


def test_a_swing_around_the_target_lowers_the_weight() -> None:
    controller = RatioController(2.0, weight=1.0)
    for step in range(100):
        controller.update(1000, 650 if step % 2 else 385)
    assert controller.weight < 0.1


def test_a_step_without_tokens_changes_nothing() -> None:
    controller = RatioController(2.0)
    controller.update(0, 0)
    assert (controller.weight, controller.measured) == (0.03, None)


def test_a_restored_controller_goes_on_as_the_first_would() -> None:
    first, second = RatioController(2.0), RatioController(2.0)
    for _ in range(5):
        first.update(1000, 700)
    second.load_state_dict(first.state_dict())
    for controller in (first, second):
        controller.update(1000, 400)
    assert (first.weight, first.measured) == (second.weight, second.measured)


def test_a_target_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="above 1, got 1"):
        RatioController(1.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_controller_holds_targets_from_which_a_constant_weight_drifts() -> None:
    targets = (1.5, 16 / 9, 2.0, 4.0)
    off = {
        weight: [abs(hold(target, weight).compression / target - 1) for target in targets] for weight in (None, 0.03)
    }
    assert max(off[None]) < 0.05
    assert max(off[0.03]) > 0.1
