"""Check many encoders of timm and open_clip, and train each for one step behind the whole model.

`python -m tests.encoders.sweep run RESULTS [NAME ...]` goes through sweep.json, the cheapest first, and appends a line of
JSON to RESULTS for each model; those that have one already are left out, so it can be stopped and called again.
`python -m tests.encoders.sweep list` writes sweep.json anew, after a new timm or open_clip: the smallest model of each timm
family (timm's own toys, test_*, aside) and every open_clip tower, of those with at most 300 M parameters.
Every model is tried in a process of its own: one that crashes or hangs is a line like any other.
"""

import importlib
import json
import multiprocessing
import os
import sys
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIST = Path(__file__).parent / "sweep.json"
MAX_PARAMETERS = 300_000_000
# A model whose picture costs more is tried at half its size (or a quarter): a check costs about 25 forward passes.
MAX_FLOPS = 4e10
LIMIT_S = 400.0  # of one model, in which it hangs; a check takes seconds
NEEDED_SHARE = 0.97


def read_list() -> list[dict[str, Any]]:
    """The models to try, the cheapest first."""
    return sorted(json.loads(LIST.read_text())["models"], key=lambda model: (model["gflops"], model["name"]))


def versions() -> dict[str, str]:
    """What results hang on besides our own code."""
    import open_clip
    import timm
    import torch

    return {"torch": torch.__version__, "timm": timm.__version__, "open_clip": open_clip.__version__}


def try_model(name: str, size_px: int | None = None) -> dict[str, Any]:
    """Check an encoder with random weights, and train it for a step.

    Returns:
        `passed`, the `reason` where it did not, and figures.
    """
    import torch

    from encoders.probes import examine_encoder
    from encoders.protocol import from_name

    torch.manual_seed(0)
    settings: dict[str, Any] = {} if size_px is None else {"size_px": size_px}
    started = time.perf_counter()
    model = whole_model({"name": name, **settings})
    built = time.perf_counter()
    found = examine_encoder(model.encoder, lambda: from_name(name, **settings).materialise())  # type: ignore[attr-defined]
    reasons = [f"{fault.probe}: {fault.text}" for fault in found.faults]
    checked = time.perf_counter()
    fault = None
    try:
        fault = train_once(model)
    except Exception as error:
        fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {
        "passed": not reasons and fault is None,
        "reason": "; ".join([*reasons, *([f"whole model: {fault}"] if fault else [])]),
        "notes": {finding.probe: finding.text for finding in found.findings if finding.state == "note"},
        "size_px": found.size_px,
        "grid": found.grid,
        "width": found.width,
        "parameters": found.parameters,
        "flops": found.flops,
        "seconds": {
            "build": round(built - started, 1),
            "check": round(checked - built, 1),
            "train": round(time.perf_counter() - checked, 1),
        },
    }


def whole_model(encoder: dict[str, Any]) -> Any:
    """The encoder before a backbone of few parameters; all of it learns."""
    from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
    from vlm.connector import ConnectorConfig
    from vlm.model import ModelConfig, VisionLanguageModel

    backbone = BackboneConfig(
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=2, top_k=1, hidden=8),
        chunk=ChunkConfig(compression=2.0),
    )
    return VisionLanguageModel(
        ModelConfig(tokenizer="demo", encoder=encoder, connector=ConnectorConfig(merge=1), backbone=backbone)
    ).train()


def train_once(model: Any) -> str | None:
    """Forward and backward with two pictures; what is wrong with loss or gradients."""
    from vlm.training.loss import answered_cross_entropy

    batch = two_pictures(model)
    hidden = model(batch).hidden
    loss = answered_cross_entropy(hidden, batch.labels, model.head_weight) / batch.num_answered
    loss.backward()
    if not loss.isfinite():
        return f"the loss is {float(loss)}"
    for part in ("encoder", "connector"):
        gradients = {name: one.grad for name, one in getattr(model, part).named_parameters() if one.requires_grad}
        for name, gradient in gradients.items():
            if gradient is None or not gradient.isfinite().all():
                return f"{part}.{name} got {'no gradient' if gradient is None else 'a gradient that is not finite'}"
        if not any(gradient.any() for gradient in gradients.values()):
            return f"every gradient of the {part} is zero"
    return None


def two_pictures(model: Any) -> Any:
    """A document for each picture: its slots, then five tokens."""
    import torch

    from data.batch import Batch

    slots, size, text = model.layout.slots, model.encoder.spec.size_px, 5
    length = slots + text
    is_image = (torch.arange(2 * length) % length) < slots
    ids = torch.randint(10, 50, (2 * length,))
    # Text goes on behind the picture; inside it, rows and columns count from its first place.
    positions = torch.arange(length)[:, None].expand(length, 3).clone()
    places = torch.arange(slots)
    positions[:slots] = torch.stack([places * 0, places // model.layout.columns, places % model.layout.columns], 1)
    positions[slots:] -= slots - max(model.layout.rows, model.layout.columns)
    return Batch(
        ids=ids,
        labels=torch.where(is_image, -100, ids),
        positions=positions.repeat(2, 1),
        lengths=(length, length),
        is_image=is_image,
        images=tuple(torch.randint(0, 256, (3, size, size), dtype=torch.uint8) for _ in range(2)),
        image_keys=("first", "second"),
        slots_per_image=(slots, slots),
        sample_ids=("0", "1"),
        cursor=None,
        num_image_slots=2 * slots,
        num_answered=2 * text,
    )


def _child(answer: Connection, name: str, size_px: int | None) -> None:
    warnings.simplefilter("ignore")
    try:
        answer.send(try_model(name, size_px))
    except Exception as error:
        answer.send({"passed": False, "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"})


def try_apart(name: str, size_px: int | None) -> dict[str, Any]:
    """`try_model` in a process of its own."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, name, size_px))
    started = time.perf_counter()
    process.start()
    theirs.close()
    found: dict[str, Any] = {"passed": False, "reason": f"took longer than {LIMIT_S:.0f} s"}
    try:
        if mine.poll(LIMIT_S):
            found = mine.recv()
    except EOFError:
        process.join(10)
        found = {"passed": False, "reason": f"the process died, exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return {**found, "whole_s": round(time.perf_counter() - started, 1)}


def run(results: Path, names: list[str]) -> list[dict[str, Any]]:
    """Try all models that have no line yet; gives the lines of all, in the order of the list."""
    # Imported before the processes part, so that each need not; the counter imports much on its first use.
    for module in ("encoders.open_clip_encoder", "encoders.probes", "encoders.timm_encoder", "vlm.model"):
        importlib.import_module(module)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        pass
    own, models = versions(), read_list()
    if unknown := sorted(set(names) - {model["name"] for model in models}):
        raise ValueError(f"{LIST} has no {', '.join(unknown)}")
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {line["name"]: line for line in lines if line["versions"] == own}
    wanted = [model for model in models if not names or model["name"] in names]
    for place, model in enumerate(wanted):
        if model["name"] in done:
            continue
        line = {"name": model["name"], **try_apart(model["name"], model["size_px"]), "versions": own}
        done[model["name"]] = line
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        state = "passed" if line["passed"] else f"FAILED {line['reason']}"
        print(f"{place + 1}/{len(wanted)} {model['name']} {line['whole_s']} s: {state}", flush=True)
    return [done[model["name"]] for model in wanted]


def make_list() -> None:
    """Write sweep.json by the rule of this module."""
    import open_clip
    import timm
    import torch
    from open_clip.model import _build_vision_tower
    from timm.models import _registry

    smallest: dict[str, tuple[int, str]] = {}
    sizes: dict[str, int] = {}
    with torch.device("meta"):
        for name in timm.list_models():
            if not name.startswith("test_"):
                model = timm.create_model(name, num_classes=0)
                size = sum(parameter.numel() for parameter in model.parameters())
                family = _registry._model_to_module[name]
                smallest[family] = min(smallest.get(family, (size, name)), (size, name))
        for name in open_clip.list_models():
            config = open_clip.get_model_config(name)
            tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"])
            sizes[f"open_clip:{name}"] = sum(parameter.numel() for parameter in tower.parameters())
    write_list({f"timm:{name}": size for size, name in smallest.values()} | sizes)


def write_list(parameters: dict[str, int]) -> None:
    """Write sweep.json: the models that are small enough, each with the picture size at which it is tried."""
    models, too_large = [], []
    for name, size in sorted(parameters.items()):
        if size > MAX_PARAMETERS:
            too_large.append({"name": name, "parameters": size})
            continue
        size_px, flops = affordable_size(name)
        models.append({"name": name, "parameters": size, "size_px": size_px, "gflops": round(flops / 1e9, 1)})
    parts = {"versions": versions(), "models": models, "too_large": too_large}
    lines = [json.dumps(key) + ": " + _block(value) for key, value in parts.items()]
    LIST.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _block(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(json.dumps(one) for one in value) + "\n]"


def affordable_size(name: str) -> tuple[int | None, float]:
    """The picture size at which to try a model, None for its own; and what a picture then costs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from encoders.protocol import from_name

    chosen: tuple[int | None, float] = (None, 0.0)
    rows = stride = 0
    for part in (1, 2, 4):
        size_px = None if part == 1 else max(1, rows // part) * stride
        try:
            encoder: Any = from_name(name) if size_px is None else from_name(name, size_px=size_px)
        except ValueError as error:
            print(f"{name} at {size_px or 'its own size'}: {error}", file=sys.stderr)
            break
        if part == 1:
            size = encoder.spec.size_px
            rows = encoder.grid(size, size)[0]
            stride = size // rows
        # With gradients, as in encoders/probes.py.
        with FlopCounterMode(display=False) as counter:
            encoder.encode([torch.empty(3, encoder.spec.size_px, encoder.spec.size_px, device="meta")])
        chosen = (size_px, float(counter.get_total_flops()))
        if chosen[1] <= MAX_FLOPS:
            break
    return chosen


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 when enough models passed."""
    if arguments == ["list"]:
        make_list()
        return 0
    if len(arguments) < 2 or arguments[0] != "run":
        print(__doc__, file=sys.stderr)
        return 2
    lines = run(Path(arguments[1]), arguments[2:])
    failed = [line for line in lines if not line["passed"]]
    print(f"\n{len(lines) - len(failed)} of {len(lines)} passed")
    for line in failed:
        print(f"{line['name']}: {line['reason']}")
    return 0 if len(failed) <= (1 - NEEDED_SHARE) * len(lines) else 1


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    sys.exit(main(sys.argv[1:]))
