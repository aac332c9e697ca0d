"""What a run is called, and how it is computed."""

from typing import Literal, NamedTuple

from pydantic import Field

from partbench.settings import Settings


class Runtime(Settings):
    """How to compute, not what: nothing here may change a result beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU where there is one"
    )
    devices: int = Field(1, ge=1, description="processes a run, one device each")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="auto: bf16-mixed where the device multiplies bfloat16 in hardware"
    )
    compile: bool = Field(False, description="torch.compile the training step")
    threads: int = Field(4, ge=1, description="CPU threads a job")
    checkpoint_minutes: float = Field(5.0, gt=0, description="time between checkpoints")


class Run(NamedTuple):
    """One training; `str(run)` is its folder below results/<name>/runs/."""

    method: str
    variant: str
    train: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method}/{self.variant}/{self.train}/{self.seed}"
