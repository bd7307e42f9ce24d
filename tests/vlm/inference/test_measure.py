from pathlib import Path

import pytest

from eval.tasks.long_context import long_task, measured
from vlm.inference.answer import ModelAnswerer
from vlm.inference.measure import measure_of
from vlm.model import VisionLanguageModel


@pytest.mark.parametrize("kind", ["trace", "picture-needle"])
def test_a_long_context_is_as_long_for_the_model_as_it_says(
    kind: str, model: VisionLanguageModel, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "model")
    task = measured(long_task(kind, 2048), lambda: measure_of(tmp_path / "model"))
    question = task.questions()[33]
    tokens = len(ModelAnswerer(model).prompt(task.ask(question)))
    assert tokens == question.meta["tokens"]
    assert 1850 < tokens <= 2048 - task.max_new_tokens
    assert question.meta["counted_by"].startswith(model.tokenizer.fingerprint())
