"""What the coordinator knows of a worker, wherever it runs: how to follow it and how to end it, not how it was started."""

from __future__ import annotations

from typing import Optional, Protocol

from stepalign.coordinator.processes.worker_process import WorkerSpec
from stepalign.protocol.journal import JournalReader
from stepalign.protocol.memory import Memory
from stepalign.protocol.status import Status


class Worker(Protocol):
    """A running worker: a `WorkerProcess` on this machine, a `RemoteWorker` on another."""

    spec: WorkerSpec
    memory: Optional[Memory]

    @property
    def journal(self) -> Optional[JournalReader]:
        """Where it writes results of short steps; None where each comes by a message."""

    @property
    def pidfd(self) -> int:
        """A descriptor that becomes readable at its end."""

    @property
    def pid(self) -> Optional[int]:
        """Its pid; None while that is not known."""

    def status(self) -> Status:
        """Return the step and the phase that it noted last."""

    def exit_code(self) -> Optional[int]:
        """Return the exit code, negative for a signal; None while it runs."""

    def state(self) -> str:
        """Return the kernel's letter for what its process does; empty where that is not known."""

    def describe_end(self) -> str:
        """Say how it ended."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came in time."""

    def terminate(self) -> None:
        """Send it SIGTERM."""

    def kill(self) -> None:
        """Kill it and whatever it started."""

    def dump_stacks(self) -> str:
        """Return the stack of each of its threads."""

    def log_tail(self) -> str:
        """Return the last lines that it wrote."""

    def close(self) -> None:
        """End what is left and give the handles back."""
