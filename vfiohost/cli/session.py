"""What a verb works with: its options, the host, what it says."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vfiohost.cli.aside import Aside
    from vfiohost.cli.options import Options
    from vfiohost.cli.output import Output
    from vfiohost.cli.progress import Waits
    from vfiohost.cli.signals import Interruption
    from vfiohost.host import Host
    from vfiohost.model import Problem, Snapshot
    from vfiohost.names import PciNames
    from vfiohost.sysfs import Kernel


class Session:
    """One run of one verb.

    Attributes:
        options: the command line.
        output: the streams.
        lines: what is printed on stdout in the end.
        document: a text that is written there instead, as it is.
        value: the fields of the JSON object that is printed instead.
        notes: what ``-v`` says besides, on stderr.
        problems: what the scans found, each once, in order.
        exit_code: the exit code when nothing fails.
        at_end: what is closed when all has been said.
    """

    def __init__(self, options: Options, output: Output) -> None:
        self.options = options
        self.output = output
        self.lines: list[str] = []
        self.document: str | None = None
        self.notes: list[str] = []
        self.value: dict[str, Any] = {}
        self.problems: dict[Problem, None] = {}
        self.exit_code = 0
        self.at_end = ExitStack()

    @property
    def root(self) -> str:
        """The root directory."""
        # Not `or`: an empty --root (a variable that is not set) must not mean this machine.
        return "/" if self.options.root is None else self.options.root

    @cached_property
    def host(self) -> Host:
        """The host; a directory of ``vfiohost sim`` answers stores as a kernel would."""
        from vfiohost.host import Host

        return Host(self.root)

    @cached_property
    def interruption(self) -> Interruption:
        """Whether a signal came while a plan was carried out."""
        from vfiohost.cli.signals import Interruption

        return Interruption()

    @cached_property
    def names(self) -> PciNames | None:
        """The names of ``pci.ids``, unless they are not wanted."""
        return None if self.options.no_names else self.host.names

    def scan(self, *, mdev: bool = False) -> Snapshot:
        """Scan the host and remember the problems."""
        snapshot = self.host.scan(mdev=mdev)
        self.problems.update(dict.fromkeys(snapshot.problems))
        return snapshot

    def meet_kernel(self) -> None:
        """Let the simulated kernel of a simulated host answer and tell."""
        self.host.kernel = _simulated(self.root) or self.host.kernel

    @contextmanager
    def writing(self) -> Iterator[Callable[[], bool]]:
        """Get ready to write: the right kernel answers, and neither signal nor terminal kills.

        Yields:
            The question whether to stop between two steps.
        """
        self.meet_kernel()
        self.host.kernel.give_up = self._give_up
        try:
            with self.interruption.caught() as is_cancelled:
                yield is_cancelled
        finally:
            self.aside.finish()

    @cached_property
    def aside(self) -> Aside:
        """Where is said what cannot wait for a reader."""
        from vfiohost.cli.aside import Aside

        return Aside(sys.stderr)

    @cached_property
    def waits(self) -> Waits:
        """Who says on the terminal what is waited for."""
        from vfiohost.cli.progress import Waits

        wanted = not self.options.quiet and not self.output.json
        return Waits(self.aside, self.host.users_of, wanted=wanted)

    def gives_up_lock(self, began: float) -> bool:
        """Whether a signal came while the lock was waited for, where nothing has begun."""
        self.waits.tick(began)
        return self.interruption.came

    def _give_up(self, began: float) -> bool:
        self.waits.tick(began)
        return self.interruption.is_grace_over(began)

    def close(self) -> None:
        """Close the host, if it was opened, and what was left for the end."""
        self.at_end.close()
        if "host" in self.__dict__:
            self.host.close()


def _simulated(root: str) -> Kernel | None:
    """The simulated kernel of a directory that ``vfiohost sim`` made, else ``None``."""
    if root == "/":
        return None
    from vfiohost import testing

    return testing.SimulatedKernel(root) if testing.is_simulation(root) else None
