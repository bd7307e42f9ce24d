"""Three training steps with compiled blocks and three without, through the same trainer; writes the losses of both."""

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from data.batch import collate


def losses(steps: Any, compiled: bool) -> list[float]:
    module, watch = steps.model(), steps.Losses()
    if compiled:
        module.vlm.backbone.compile_blocks(backend="aot_eager")
    spec = module.vlm.encoder.spec
    batches = [collate(steps.rows(step, "text") + steps.rows(step, "picture"), spec) for step in range(3)]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    found: list[float] = watch.losses
    return found


def main(out: Path) -> None:
    warnings.simplefilter("ignore")
    spec = importlib.util.spec_from_file_location("ten_steps", Path(__file__).with_name("ten_steps.py"))
    assert spec is not None
    assert spec.loader is not None
    steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(steps)
    out.write_text(json.dumps({name: losses(steps, name == "compiled") for name in ("plain", "compiled")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
