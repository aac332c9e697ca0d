"""What a run is called, and how it is computed."""

import re
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from partbench import names
from partbench.errors import BadInput, shown
from partbench.settings import Settings

MOST_SEED = 2**32 - 1
Seed = Annotated[int, Field(strict=True, ge=0, le=MOST_SEED)]


class Runtime(Settings):
    """How to compute, not what: nothing here may change a result beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU where there is one"
    )
    devices: int = Field(1, ge=1, description="processes a run on each node, one device each")
    nodes: int = Field(1, ge=1, description="machines a run; more than one take Slurm or torchrun")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="auto: bf16-mixed where the device multiplies bfloat16 in hardware"
    )
    compile: bool = Field(False, description="torch.compile the training step")
    threads: int = Field(4, ge=1, description="CPU threads a job, on each node")
    checkpoint_minutes: float = Field(5.0, gt=0, description="time between checkpoints")
    snapshots: tuple[Annotated[int, Field(strict=True, ge=0)], ...] = Field(
        (),
        description="epochs after which a method that generates images keeps its model as well, 0 "
        "being before the first; the probe `generation` follows the Frechet distance over them",
    )

    @property
    def processes(self) -> int:
        """Processes of a run, one device each."""
        return self.devices * self.nodes

    @property
    def threads_each(self) -> int:
        """CPU threads of a process."""
        return max(self.threads // self.devices, 1)

    @model_validator(mode="after")
    def _compile_alone(self) -> Self:
        if self.compile and self.processes > 1:
            raise ValueError(
                f"`compile` is for one device, not for the {self.processes} of `devices` and "
                "`nodes`; leave it out"
            )
        return self


class Run(NamedTuple):
    """One training; `str(run)` is its folder below results/<name>/runs/."""

    method: str
    variant: str
    train: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method}/{self.variant}/{self.train}/{self.seed}"

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Return the run that `str` wrote.

        Args:
            text: such as "vae/paper/toy/0".
            where: it comes from, for the message.

        Raises:
            BadInput: it has not four parts, one of them is no valid name, or the seed no number.
        """
        parts = text.split("/")
        if len(parts) != 4 or not re.fullmatch(r"0|[1-9][0-9]{0,9}", parts[3]):
            raise BadInput(f"{where} {shown(text)}: must be method/variant/train/seed")
        method, variant, train, seed = parts
        for name in (method, *variant.split("+"), train):
            names.check(name, f"{where} {shown(text)}: a part")
        check_seed(int(seed), f"{where} {shown(text)}: the seed")
        return cls(method, variant, train, int(seed))


def check_seed(seed: int, where: str) -> None:
    """Raise BadInput unless a seed is one that configurations may have."""
    if not 0 <= seed <= MOST_SEED:
        raise BadInput(f"{where} is {shown(seed)}; give a whole number from 0 to {MOST_SEED}")
