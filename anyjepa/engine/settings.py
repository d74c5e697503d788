"""How a run is trained, whatever the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from anyjepa.engine.patience import PATIENCE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is trained; nothing here changes what is learned, but for the seed and the length."""

    steps: int | None = None  # length of the training in updates, instead of the recipe's epochs
    seed: int | None = None  # of weights, order, crops and masks; 0 where not given
    device: str = "auto"  # auto, cpu, cuda or mps
    devices: int = 1  # processes on this machine, each with a device of its own
    sharded: bool = False  # cut weights and the optimiser's state over the processes (FSDP2)
    precision: str = "auto"  # auto (bf16 on GPUs, fp32 on CPUs) or one of Lightning Fabric's
    workers: int | None = None  # loader processes; as many as help where not given
    compile: bool = False  # compile encoder and predictor with torch.compile
    log_every: int = 20  # steps between logged rows
    checkpoint_every: int | None = None  # steps between checkpoints; every minute where not given
    keep_checkpoints: int = 2  # newest ones that are kept; 0 keeps all, for anyjepa compare --checkpoints
    patience: float = PATIENCE  # seconds that reading one sample may take before it counts as damaged
    max_bad_fraction: float = 0.01  # share of damaged samples at which training stops
    log: Literal["none", "wandb", "mlflow"] = "none"  # besides the run's folder: W&B or MLflow
    quiet: bool = False  # show no progress
