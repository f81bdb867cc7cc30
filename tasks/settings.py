"""Execution: where and how a run happens. Nothing here ever changes a step's key."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ROOT = Path(__file__).resolve().parent.parent

# No call leaves the machine at run time, and no library reports home.
OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

# libgomp's default spinning slows two torch threads beside any other busy process up to 19 times;
# it is read once, when torch is loaded.
PERFORMANCE: Mapping[str, str] = {"GOMP_SPINCOUNT": "20000", "TOKENIZERS_PARALLELISM": "false"}

# Of processes that train: read when they start. By default glibc gives each large block back to the system when it is
# freed, and a step asks for the same blocks again: a quarter of its time. What such a process frees, it keeps.
WORKER: Mapping[str, str] = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # or the memory profiler warns of every block that is older than it
    # Products in bf16 are oneDNN's, which prepares one for each shape. It and torch keep the newest 1024 each, together
    # 0.6 MB a shape, and each new length of a batch brings thirty. A pre-training, whose shapes stay, had 33 to 57.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
}


class Execution(BaseModel):
    """Where and how the steps run: never part of their identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(2, ge=0, le=1024, description="Torch threads per training process (0: all cores).")
    processes: int = Field(2, ge=1, le=64, description="Independent training runs at once, one thread each on a CPU.")
    commit: bool = Field(False, description="Commit data.dvc to git when the data stage moves it, and nothing else.")
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$", description="auto takes a GPU where there is one.")
    runner: Literal["threads", "ray"] = Field(
        "threads", description="Where a sweep's runs are started: in this machine's processes, or by Ray."
    )
    ray_address: str = Field(
        "", description="Of a Ray cluster, as in ray://head:10001. Empty: a Ray of this machine alone, for the sweep."
    )
    devices: int = Field(
        1, ge=0, le=1024,
        description="Devices of one pre-training or continued pre-training, which share its batch (0: all GPUs there "
        "are). On a CPU so many processes. The other stages use one.",
    )  # fmt: skip
    sharding: Literal["none", "fsdp"] = Field(
        "none", description="none: a copy of the model on each device. fsdp: each GPU holds a part of it (FSDP2)."
    )

    micro_batch: int = Field(
        0, ge=0, le=4096, description="The most examples, in the reward model pairs, that a training computes "
        "gradients of at once: its batch is cut into equal parts, whose gradients add up. 0: as many as fit in memory; "
        "reward model and alignment take their whole batch.",
    )  # fmt: skip
    checkpointing: bool = Field(
        False, description="A training computes activations again instead of keeping them: less memory, more time."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile in pre-training. auto: on a GPU, and on a CPU where the tokens make up for it.",
    )

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: object) -> object:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _address_is_used(self) -> "Execution":
        if self.ray_address and self.runner != "ray":
            raise ValueError(f"ray_address is {self.ray_address} and runner {self.runner}: set runner to ray as well")
        return self

    @model_validator(mode="after")
    def _sharding_has_gpus(self) -> "Execution":
        if self.sharding == "fsdp" and (self.device == "cpu" or self.devices == 1):
            raise ValueError(
                f"sharding is fsdp, device {self.device} and devices {self.devices}: FSDP needs two GPUs or more. "
                "Set sharding to none, or device to cuda and devices to 0 for all of them"
            )
        return self

    @property
    def on_one_device(self) -> "Execution":
        """For trainings that share the devices, each on one of them, as the runs of a sweep do."""
        return self.model_copy(update={"devices": 1, "sharding": "none"})

    @property
    def threads_each(self) -> int:
        """Threads of a training run that has others beside it."""
        return max(1, (self.threads or os.cpu_count() or 1) // self.processes)


def home() -> Path:
    """`$EVERGREEN_HOME`, by default `.evergreen` in the project's root."""
    return Path(os.environ.get("EVERGREEN_HOME") or ROOT / ".evergreen").expanduser().resolve()


def project() -> Path:
    """`$EVERGREEN_PROJECT`, by default the project's root: the folder with `data/`, `models/` and their pointers."""
    return Path(os.environ.get("EVERGREEN_PROJECT") or ROOT).expanduser().resolve()


def pinned_data() -> str:
    """`$EVERGREEN_DATA`: the key of the data set in the store that every run takes, whatever the sources hold now."""
    return os.environ.get("EVERGREEN_DATA", "")


def apply_environment() -> None:
    """Sets what must be set before torch, Prefect or MLflow are imported; what the user has set stays."""
    for name, value in {**OFFLINE, **PERFORMANCE}.items():
        os.environ.setdefault(name, value)
    # where it is installed, peft imports it; it says which kernels it lacks, and what each int8 product casts
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def worker_environment() -> Iterator[None]:
    """For the time in which worker processes are started; what the user has set stays."""
    added = {name: value for name, value in WORKER.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def apply_threads(threads: int) -> int:
    """Sets torch's thread count and returns it; the count decides whether two runs are bit-identical."""
    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)
    return torch.get_num_threads()
