"""Several processes that train one model: each reads a part of every batch, gradients are averaged.

Threads of one process wait for each other in every product, processes once a step: less is lost to
whatever else wants the machine's cores. Processes find each other by torch's environment variables
(RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); one alone needs nothing of this. It knows neither the
model's form nor its losses.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, slots=True)
class Workers:
    """This process's place (`rank`) among the `count` that train together."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that saves, shows and exports."""
        return self.rank == 0

    def part(self, windows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """This process's rows of a batch [rows, ...]: as many as any other's.

        Raises ValueError when the rows cannot be shared out evenly.
        """
        if len(windows) % self.count:
            raise ValueError(f"{len(windows)} rows cannot be shared out among {self.count}")
        return windows[self.rank :: self.count]

    def require_fair(self, rows: Iterable[int]) -> None:
        """Refuse batches of a run that cannot be shared out evenly, before any is made.

        Raises ValueError, naming the first.
        """
        for count in rows:
            if count % self.count:
                raise ValueError(f"{count} rows cannot be shared out among {self.count} processes")

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run a block in the leading process, and then in the others, which find what it made."""
        if self.count > 1 and not self.leads:
            dist.barrier()
        yield
        if self.count > 1 and self.leads:
            dist.barrier()

    def average_gradients(self, model: nn.Module) -> None:
        """Put the mean over all processes into every gradient of `model`."""
        if self.count == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over all processes of each value; the same in every process."""
        if self.count == 1:
            return list(values)
        means = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(means)
        means /= self.count
        return means.tolist()


ALONE = Workers()


def join_workers() -> Workers:
    """Meet the other processes that the environment names; alone where it names none."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return Workers(dist.get_rank(), count)
