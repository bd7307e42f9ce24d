"""The data module under Lightning's Trainer: checkpoints in mid-fit, restarts, more than one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.module import DataModule
from tests.data.trainer_run import Recorder, fit

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> str:
    records = [make.text_record(i) for i in range(60)]
    records[5] = (records[5][0], {"json": b"{"})
    return make.write_records(tmp_path_factory.mktemp("shards") / "s", records)


def module_of(tokenizer_file: Path, folder: str, **settings: Any) -> DataModule:
    defaults = {
        "val": [folder],
        "row_tokens": 100,
        "num_workers": 0,
        "lanes": 4,
        "steps_per_epoch": 8,
        "max_faulty": 0.1,
    }
    return DataModule(str(tokenizer_file), None, [folder], **(defaults | settings))


# What a learning rate's schedule asks for makes Lightning forget the loader's place; the data module keeps it too.
@pytest.mark.parametrize(
    ("workers", "then", "accumulate", "asks_for_steps"), [(0, 2, 1, False), (2, 1, 2, True), (1, 0, 4, False)]
)
def test_a_checkpoint_in_mid_fit_is_gone_on_from_to_the_letter(
    tmp_path: Path,
    tokenizer_file: Path,
    folder: str,
    workers: int,
    then: int,
    accumulate: int,
    asks_for_steps: bool,
) -> None:
    def run(steps: int, num_workers: int, resume: Path | None = None) -> list[tuple[str, ...]]:
        return fit(
            tmp_path,
            module_of(tokenizer_file, folder, num_workers=num_workers),
            steps,
            resume,
            asks_for_steps,
            every=3,
            accumulate_grad_batches=accumulate,
            max_epochs=50,
        )

    whole = run(14, 0)
    for file in tmp_path.glob("*.ckpt"):
        file.unlink()
    run(8, workers)
    for step in (3, 6):
        assert run(14, then, next(tmp_path.glob(f"*step={step}.ckpt"))) == whole[step * accumulate :]
    [line] = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "t00005"


def test_another_accumulation_goes_on_with_the_same_rows(tmp_path: Path, tokenizer_file: Path, folder: str) -> None:
    whole = fit(tmp_path / "whole", module_of(tokenizer_file, folder), 12, accumulate_grad_batches=2)
    fit(tmp_path, module_of(tokenizer_file, folder), 4, every=4, accumulate_grad_batches=2)
    [checkpoint] = tmp_path.glob("*step=4.ckpt")
    resumed = fit(tmp_path, module_of(tokenizer_file, folder), 8, checkpoint, accumulate_grad_batches=4)
    assert resumed == whole[8:]


def test_the_same_trainer_goes_on_where_it_was(tmp_path: Path, tokenizer_file: Path, folder: str) -> None:
    from lightning.pytorch import Trainer

    whole = fit(tmp_path / "whole", module_of(tokenizer_file, folder), 9)
    module, model = module_of(tokenizer_file, folder), Recorder()
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer = Trainer(max_steps=4, enable_progress_bar=False, default_root_dir=tmp_path, **settings)
    trainer.fit(model, module)
    trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = 50, 9
    trainer.fit(model, module)
    assert model.seen == whole
    again = Recorder()
    Trainer(max_steps=4, enable_progress_bar=False, default_root_dir=tmp_path, **settings).fit(again, module)
    assert again.seen == whole[:4]  # another run begins at the beginning


def test_a_checkpoint_without_a_place_in_the_data_is_refused(tmp_path: Path, tokenizer_file: Path, folder: str) -> None:
    fit(tmp_path, module_of(tokenizer_file, folder), 4, every=4)
    [checkpoint] = tmp_path.glob("*step=4.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    assert content.pop("DataModule")["train"]["rows_given"] == 4
    content["loops"]["fit_loop"]["state_dict"]["combined_loader"] = []
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match="goes on at step 4, and the checkpoint does not say where in the data"):
        fit(tmp_path, module_of(tokenizer_file, folder), 8, checkpoint)


def test_two_processes_go_on_from_a_checkpoint_as_two_that_ran_through(
    tmp_path: Path, tokenizer_file: Path, folder: str
) -> None:
    asked = {"out": str(tmp_path), "tokenizer": str(tokenizer_file), "train": folder, "accumulate_grad_batches": 2}
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.data.trainer_run"]
    done = subprocess.run(
        [sys.executable, *launcher, json.dumps(asked)], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["whole"] != ranks[1]["whole"]
    for rank in ranks:
        assert len(rank["whole"]) == 30
        assert rank["resumed"] == rank["whole"][10:]
