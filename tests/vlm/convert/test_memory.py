"""An import holds a tensor at a time. Measured in a process of its own, on a model of 150 MB."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.vlm.convert.pretrained import make_model, make_tokenizer, save

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
WIDTH, INNER, LAYERS, ROWS = 512, 1536, 10, 2000


def write_large(folder: Path) -> int:
    """A Llama of one file, written without transformers; its bytes."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": ROWS,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    make_tokenizer().save(str(folder / "tokenizer.json"))
    weights = {"model.embed_tokens.weight": torch.ones(ROWS, WIDTH), "model.norm.weight": torch.ones(WIDTH)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        weights |= {f"{name}.self_attn.{kind}_proj.weight": torch.ones(WIDTH, WIDTH) for kind in "qkvo"}
        weights |= {f"{name}.mlp.{kind}_proj.weight": torch.ones(INNER, WIDTH) for kind in ("gate", "up")}
        weights[f"{name}.mlp.down_proj.weight"] = torch.ones(WIDTH, INNER)
        weights |= {f"{name}.{kind}_layernorm.weight": torch.ones(WIDTH) for kind in ("input", "post_attention")}
    save_file(weights, folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size


@pytest.mark.long
def test_the_peak_of_an_import_is_far_below_the_model(tmp_path: Path) -> None:
    size = write_large(tmp_path / "hf")
    save(make_model("llama", torch.float32), tmp_path / "small")
    command = [sys.executable, "-m", "tests.vlm.convert.peak_of_import", *("hf", "small", "model")]
    command[3:] = [str(tmp_path / name) for name in command[3:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported, loaded = map(int, done.stdout.split())
    assert size > 130e6
    assert imported < 0.5 * size  # measured: 0.03; the limit that was asked for is 1.3
    assert loaded < 1.3 * size
