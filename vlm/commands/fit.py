"""`vlm fit` and `vlm validate`: the Lightning CLI with the project's config graph.

    tokenizer, chat, encoder, connector, backbone, tie_embeddings, optimizer  (top level; linked into)->  model, data
The model and the data module both take from the top level, and neither from the other.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from data.module import DataModule, SourceConfig
from data.overlong import OverlongRule
from data.tokenizer import Chat
from encoders.check import check_encoder
from vlm.backbone import BackboneConfig
from vlm.commands.composition import compose_layout, compose_model, plain
from vlm.commands.configs import found_configs, read_yaml_strictly
from vlm.commands.folders import require_writable
from vlm.commands.quiet import Parser, silence
from vlm.connector import ConnectorConfig
from vlm.inference.training_benchmarks import TrainingBenchmarks
from vlm.model import EncoderSetting
from vlm.training.allocator import keep_freed_memory
from vlm.training.checkpoint import AtomicCheckpointIO, Checkpoints, last_checkpoint
from vlm.training.logs import CSVLog, TensorBoardLog
from vlm.training.lora import LoraSettings
from vlm.training.module import VLMTrainingModule
from vlm.training.optim import OptimizerConfig
from vlm.training.watch import Monitor


def build_model(
    config: Any,
    optimizer: Any,
    train_only: list[str] | None = None,
    freeze: list[str] | None = None,
    feature_cache: str | None = None,
    hold_compression: bool = True,
    start: str | None = None,
    open_steps: int = 0,
    unfreeze: dict[str, int] | None = None,
    lora: LoraSettings | None = None,
    image_dependence_rows: int = 4,
    compile_blocks: bool = False,
    recompute_blocks: bool = False,
) -> VLMTrainingModule:
    """What learns, and how.

    Args:
        config: made from the top level of the config.
        optimizer: made from the top level of the config.
        train_only: names of the parts that learn, such as `connector` or `backbone.chunker`; the others are frozen.
        freeze: names of the parts that do not learn, such as `encoder`, or patterns such as `backbone.concept.*.mlp.gate`.
        feature_cache: folder for the features of a frozen encoder, or `auto`; null encodes each picture each time.
        hold_compression: a controller holds the target by the weight of the ratio loss; false keeps the weight constant, as the paper does.
        start: model folder whose weights the run begins with; parts that it lacks begin new.
        open_steps: steps in which the chunker takes over from "every token is a concept", for a model of `vlm convert to-conceptmoe`.
        unfreeze: parts that begin to learn later, and after how many steps, such as {encoder: 500}.
        lora: low-rank adapters, such as {rank: 8, targets: [backbone]}; needs the extra [lora].
        image_dependence_rows: rows of each source on which a validation also tries other pictures, and none; 0 for no row.
        compile_blocks: run the backbone's blocks through torch.compile; for a GPU.
        recompute_blocks: compute the blocks once more in the backward pass, which takes less memory.
    """
    return VLMTrainingModule(
        config,
        optimizer,
        train_only=train_only,
        freeze=freeze,
        feature_cache=feature_cache,
        hold_compression=hold_compression,
        compile_blocks=compile_blocks,
        recompute_blocks=recompute_blocks,
        start=start,
        open_steps=open_steps,
        unfreeze=unfreeze,
        lora=lora,
        image_dependence_rows=image_dependence_rows,
    )


def build_data(
    tokenizer: Any,
    layout: Any,
    train: list[SourceConfig | str],
    val: list[SourceConfig | str] | None = None,
    row_tokens: int = 4096,
    num_workers: int = 1,
    augmentations: int = 0,
    seed: int = 0,
    steps_per_epoch: int = 1000,
    lanes: int = 24,
    overlong: OverlongRule = "drop",
    max_faulty: float = 0.01,
    chat: Any = "own",
) -> DataModule:
    """Records in, packed batches out.

    Args:
        tokenizer: set at the top level of the config.
        layout: made from the top level's encoder and connector.
        train: sources to learn from: a tar, a folder of tars, a brace pattern, or `demo:...`; each with its weight in the mixture.
        val: sources to validate on.
        row_tokens: tokens of one packed row, which is one batch of one rank.
        num_workers: processes that read and decode beside the training process.
        augmentations: altered copies of each training picture, beside the picture itself; a source may have a number of its own.
        seed: order of the data.
        steps_per_epoch: batches that Lightning takes for an epoch of the endless stream.
        lanes: parts of the stream, a multiple of the number of processes; fixed for the life of a run.
        overlong: what becomes of a record longer than a row: `drop` it, `cut` it at the end or `split` it; counted in each case.
        max_faulty: the largest share of records that may be bad, of at least 1,000 read; 0 stops at the first. They are listed in quarantine.jsonl.
        chat: set at the top level of the config.
    """
    return DataModule(
        tokenizer=tokenizer,
        layout=layout,
        train=train,
        val=val or [],
        row_tokens=row_tokens,
        num_workers=num_workers,
        augmentations=augmentations,
        seed=seed,
        steps_per_epoch=steps_per_epoch,
        lanes=lanes,
        overlong=overlong,
        max_faulty=max_faulty,
        chat=chat,
    )


class VLMCommandLine(LightningCLI):
    """`vlm fit --config FILE [--config OVERLAY] [--key value]`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--tokenizer", type=str, default="demo", help="`demo`, or a tokenizer.json or its folder")
        parser.add_argument(
            "--chat",
            type=Chat,
            default="own",
            help="how conversations are written: `own` format, or by the chat `template` beside the tokenizer",
        )
        parser.add_argument(
            "--encoder", type=EncoderSetting, default=None, help="`timm:NAME`, a class path, or {name: ..., settings}"
        )
        parser.add_argument("--connector", type=ConnectorConfig, default=ConnectorConfig())
        parser.add_argument("--backbone", type=BackboneConfig)
        parser.add_argument(
            "--tie_embeddings", type=bool, default=True, help="the head is the embedding; false: a head of its own"
        )
        parser.add_argument("--optimizer", type=OptimizerConfig, default=OptimizerConfig())
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(TrainingBenchmarks, "benchmarks")
        parser.link_arguments("tokenizer", "data.tokenizer")
        parser.link_arguments("chat", "data.chat")
        parser.link_arguments(("encoder", "connector"), "data.layout", compute_fn=compose_layout)
        parser.link_arguments(
            ("tokenizer", "encoder", "connector", "backbone", "tie_embeddings", "chat"),
            "model.config",
            compute_fn=compose_model,
        )
        parser.link_arguments("optimizer", "model.optimizer", compute_fn=lambda group: OptimizerConfig(**plain(group)))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        kept = LightningCLI.subcommands()
        return {name: kept[name] for name in ("fit", "validate")}

    def _parse_ckpt_path(self) -> None:
        """Settings come from the config and the command line alone; a checkpoint never overrides what the user typed."""

    def before_instantiate_classes(self) -> None:
        if self.subcommand == "validate" and not self._get(self.config, "ckpt_path"):
            raise ValueError("vlm validate needs --ckpt_path FILE, such as runs/demo/checkpoints/last.ckpt")
        root = Path(self._get(self.config, "trainer")["default_root_dir"] or "runs/latest")
        require_writable(root, "--trainer.default_root_dir")
        self.root = root
        if self._get(self.config, "ckpt_path") == "last":
            last = last_checkpoint(root)
            if not last.exists():  # Lightning would start anew with a warning
                raise ValueError(
                    f"--ckpt_path last: there is no checkpoint at {last}; leave --ckpt_path out to start anew, "
                    "or name the run's folder with --trainer.default_root_dir"
                )
            self.config[self.subcommand]["ckpt_path"] = str(last)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        if settings.get("logger") is None:
            loggers = [CSVLog(self.root, name="logs"), TensorBoardLog(self.root, name="tensorboard", version="")]
            kwargs["logger"] = loggers if self.subcommand == "fit" else False
        # Not among the parser's defaults: an object cannot be written into the run's config.yaml.
        kwargs["plugins"] = [*(settings.get("plugins") or []), AtomicCheckpointIO()]
        trainer = super().instantiate_trainer(default_root_dir=str(self.root), **kwargs)
        self.model.seed = self._get(self.config, "seed_everything")
        return trainer

    def before_fit(self) -> None:
        # Once more than Lightning does, and before it makes the logs: a bad shard leaves nothing in the run's folder.
        self.datamodule.setup("fit")
        encoder = self.model.vlm.encoder
        if encoder is not None and not type(encoder).__module__.startswith("encoders."):
            check_encoder(encoder)  # the user's own: its faults would show as odd shapes, or not at all

    def after_fit(self) -> None:
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            self.model.save_pretrained(self.root / "model")
            print(f"model saved in {self.root / 'model'}")
            if self.model.adapters is not None:
                self.model.adapters.save(self.root / "lora", self.model.start)
                print(f"adapters saved in {self.root / 'lora'}")


class SaveConfig(SaveConfigCallback):
    """Writes the whole config into the run's folder; a restart in the same folder is no error."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Nothing yet: a refused checkpoint must not cost an earlier run its config."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            config = self.parser.dump(self.config, skip_none=False)
            Path(trainer.default_root_dir, "config.yaml").write_text(config)


def trainer_defaults() -> dict[str, Any]:
    """What differs from Lightning's own defaults, and why."""
    return {
        "callbacks": [Monitor()],
        "enable_progress_bar": False,  # Monitor shows the figures of this project
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the order is ours; Lightning's would shuffle once more
        "max_epochs": -1,  # the stream has no end; max_steps ends it
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": 1.0,
    }


def run_lightning(command: str, arguments: list[str]) -> int:
    """Parse and run `fit` or `validate`."""
    silence()
    keep_freed_memory()
    read_yaml_strictly()
    arguments = found_configs(arguments)
    usage = {name: {"usage": f"vlm {name} [--config FILE] [--key value ...]"} for name in ("fit", "validate")}
    # Lightning starts the processes of `trainer.devices` by running this command line once more, also from `vlm demo`.
    saved, sys.argv = sys.argv, [sys.argv[0], command, *arguments]
    try:
        VLMCommandLine(
            build_model,
            build_data,
            parser_class=Parser,
            parser_kwargs=usage,
            trainer_defaults=trainer_defaults(),
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error}") from error
    except SIGTERMException:
        print("vlm: stopped by SIGTERM", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's exit code would be 1
            raise KeyboardInterrupt from error
        raise
    finally:
        sys.argv = saved
    return 0
