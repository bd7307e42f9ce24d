"""`vlm bench conversion`, as a user calls it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Vlm = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--seeds", "0,x"), "'0,x'; give for instance 0,1,2"),
        (("--seeds", ""), "''"),
        (("--open-steps", "0"), "--open-steps must be at least 1, got 0"),
        (("--set", "steps"), "--set takes KEY=VALUE, got 'steps'"),
        (("--plot", "curves.txt"), "a drawing ends in .svg"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: tuple[str, ...], told: str, tmp_path: Path, vlm: Vlm) -> None:
    code, out, err = vlm("bench", "conversion", "--out", str(tmp_path / "runs"), *options)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_every_variant_runs_as_a_user_would_start_it(tmp_path: Path, vlm: Vlm) -> None:
    small = (
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "data.row_tokens=256",
        "trainer.log_every_n_steps=1",
    )
    options = [part for one in small for part in ("--set", one)]
    arguments = ("bench", "conversion", "--out", str(tmp_path), "--seeds", "3", "--open-steps", "2", "--json", *options)
    code, out, _ = vlm(*arguments)
    assert code == 0
    found = {one["variant"]: one for one in json.loads(out)["results"]}
    assert list(found) == [
        "source continued",
        "top-k",
        "top-k, at once",
        "top-k, Eq. 10",
        "loop",
        "loop, not chunked",
    ]
    assert found["source continued"]["beside_source"] == 0
    assert found["source continued"]["flops"] == found["source continued"]["kv_bytes"] == 1
    # More experts at once change little at the start, chunking without opening much.
    first = {name: one["first_loss"] for name, one in found.items()}
    assert abs(first["top-k"] - first["source continued"]) < abs(first["top-k, at once"] - first["source continued"])
    assert first["loop"] == pytest.approx(first["loop, not chunked"], rel=1e-4)
    assert found["loop, not chunked"]["compression"] is None
    assert vlm(*arguments)[1] == out
