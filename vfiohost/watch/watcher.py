"""Waits until something may have changed, looks, and tells what has."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import attrs

from vfiohost.mdev_scan import MDEV_DEVICES
from vfiohost.model import MdevBus, PciAddress
from vfiohost.reads import DEVICES
from vfiohost.watch.changes import Change, changes
from vfiohost.watch.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from vfiohost.model import PciDevice, Snapshot

    Look = Callable[[], Snapshot]
    Test = Callable[[PciDevice], bool]


class Events(Protocol):
    """A doorbell: it says that something may have changed, not what."""

    def fileno(self) -> int:
        """What becomes readable when something is to be heard."""

    def heard(self) -> bool:
        """Take what is waiting; whether to look at the host. Never waits."""

    def close(self) -> None:
        """Hear no more."""


@runtime_checkable
class TellsChanges(Protocol):
    """A kernel that has a doorbell of its own, as a simulated one."""

    def subscribe(self) -> Events:
        """Listen from now on."""


class Watcher:
    """Tells what changes on a host: iterate over it, with ``for`` or with ``async for``.

    It has listened from before its first look, so that nothing falls between. Many events in a
    short time are answered by few looks; what was one thing at one look and another at the next is
    told, what came and went between two is not. While nothing happens, nothing runs.

    It belongs to one thread, but for :meth:`stop`. Its looks are made in the thread that iterates;
    each takes some milliseconds. A context manager; closed as well when an ``async for`` over it is
    cancelled.

    Args:
        events: the doorbell, which it owns from now on.
        look: reads the host.
        wanted: makes the question whether a function is watched of the first snapshot; ``None``
            watches everything.

    Attributes:
        snapshot: the host as it was last seen: what has been told brings the first one here.
    """

    def __init__(
        self, events: Events, look: Look, wanted: Callable[[Snapshot], Test] | None = None
    ) -> None:
        self._events = events
        self._look = look
        self._pace = Pace()
        self._told: deque[Change] = deque()
        self._kept: frozenset[str] = frozenset()
        self._outputs: list[int] = []
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.snapshot = look()
            self._wanted = None if wanted is None else wanted(self.snapshot)
        except BaseException:
            self.close()
            raise

    # -- waiting ---------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> tuple[Change, ...]:
        """Wait for changes.

        Args:
            timeout: seconds to wait; ``None`` for as long as it takes.

        Returns:
            What has changed, in order; nothing when the time is over, or :meth:`stop` was called.

        Raises:
            KernelError: the kernel's events cannot be read.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._is_over:
            found = self._turn()
            left = _left(end, self._pace.due)
            if found or _is_past(end):
                return found
            _poll(self._sources(), left, self._outputs)
        return ()

    async def wait_async(self, timeout: float | None = None) -> tuple[Change, ...]:  # noqa: ASYNC109 - the same words as wait()
        """Wait for changes as :meth:`wait`, and let the event loop go on meanwhile.

        When it is cancelled, nothing is lost: what was not returned comes next time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._is_over:
            found = self._turn()
            left = _left(end, self._pace.due)
            if found or _is_past(end):
                return found
            await _readable(self._sources(), left)
        return ()

    def stop(self) -> None:
        """End the waiting and the iteration; from another thread or a signal handler, too."""
        with contextlib.suppress(OSError, ValueError):  # closed, or being closed
            os.eventfd_write(self._stop, 1)

    def stop_without(self, output: int) -> None:
        """End as well when nobody reads any more what is written to a pipe or terminal.

        Only :meth:`wait` and ``for`` see to it, not their ``async`` counterparts.

        Args:
            output: its file descriptor, which stays the caller's.
        """
        self._outputs.append(output)

    def close(self) -> None:
        """Close the socket; the iteration is over. Closing twice is harmless."""
        self._told.clear()
        stop, self._stop = self._stop, -1
        if stop >= 0:
            self._events.close()
            os.close(stop)

    # -- looking ---------------------------------------------------------------------------------

    def _turn(self) -> tuple[Change, ...]:
        """Look, if it is time to."""
        if self._is_over:
            return ()
        # What is heard up to here is answered by this look; what comes during it, by the next.
        if not self._pace.is_answering and self._events.heard():
            self._pace.heard(time.monotonic())
        due = self._pace.due
        if due is None or time.monotonic() < due:
            return ()
        self._events.heard()
        return self._see()

    def _see(self) -> tuple[Change, ...]:
        before, seen = self.snapshot, self._look()
        self.snapshot, kept = with_unseen(before, seen)
        found = changes(before, self.snapshot)
        self._pace.looked(time.monotonic(), is_news=bool(found) or kept != self._kept)
        self._kept = kept
        if self._wanted is None:
            return found
        return tuple(c for c in found if _concerns(c, self._wanted, (before, self.snapshot)))

    @property
    def _is_over(self) -> bool:
        if self._stop < 0:
            return True
        return _poll([self._stop], 0.0, self._outputs)

    def _sources(self) -> Sequence[int]:
        """What ends the waiting: no further event does while one is to be answered already."""
        if self._pace.is_answering:
            return [self._stop]
        return [self._stop, self._events.fileno()]

    # -- iterating -------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        while not self._told:
            if self._is_over:
                raise StopIteration
            self._told.extend(self.wait())
        return self._told.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._told:
            if self._is_over:
                raise StopAsyncIteration
            try:
                self._told.extend(await self.wait_async())
            except BaseException:  # cancelled, in most cases
                self.close()
                raise
        return self._told.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_stop", -1) >= 0:
            self.close()


def with_unseen(before: Snapshot, seen: Snapshot) -> tuple[Snapshot, frozenset[str]]:
    """Keep what was there before and could not be looked at now: it has not gone for that.

    Args:
        before: the host as it was.
        seen: the host as it was read now, with the problems of that.

    Returns:
        The host, and the names of what was kept.
    """
    paths = {problem.path for problem in seen.problems}
    if paths.isdisjoint((DEVICES, MDEV_DEVICES)) and not any(
        path is not None and path.startswith((f"{DEVICES}/", f"{MDEV_DEVICES}/")) for path in paths
    ):
        return seen, frozenset()
    kept = [
        device
        for device in before.devices
        if device.address not in seen.pci
        and not paths.isdisjoint((DEVICES, f"{DEVICES}/{device.address}"))
    ]
    old, new = (MdevBus((), ()) if s.mdev is None else s.mdev for s in (before, seen))
    known = {mdev.uuid for mdev in new.devices}
    kept_mdevs = [
        mdev
        for mdev in old.devices
        if mdev.uuid not in known
        and not paths.isdisjoint((MDEV_DEVICES, f"{MDEV_DEVICES}/{mdev.uuid}"))
    ]
    devices = sorted((*seen.devices, *kept), key=lambda device: device.address)
    merged = attrs.evolve(
        seen,
        devices=tuple(devices),
        mdev=MdevBus(new.parents, (*new.devices, *kept_mdevs)),
    )
    names = [str(device.address) for device in kept] + [mdev.uuid for mdev in kept_mdevs]
    return merged, frozenset(names)


def _concerns(change: Change, wanted: Test, snapshots: Sequence[Snapshot]) -> bool:
    """Whether a change is about a function that is watched, or a mediated device of one.

    The parents of an SR-IOV card's mediated devices are its virtual functions: they belong to the
    physical one here.
    """
    is_mdev = change.subject != str(change.address)
    for snapshot in snapshots:
        device = None if change.address is None else snapshot.pci.get(change.address)
        while device is not None:
            if wanted(device):
                return True
            parent = device.physfn if is_mdev else None
            device = snapshot.pci.get(parent) if isinstance(parent, PciAddress) else None
    return False


def _left(end: float | None, due: float | None) -> float | None:
    """Seconds to the earlier of two moments; ``None`` when there is neither."""
    moments = [moment for moment in (end, due) if moment is not None]
    return max(0.0, min(moments) - time.monotonic()) if moments else None


def _is_past(end: float | None) -> bool:
    return end is not None and time.monotonic() >= end


def _poll(sources: Sequence[int], seconds: float | None, outputs: Sequence[int]) -> bool:
    """Wait until one of some file descriptors is readable, or an output broken; whether one is."""
    poll = select.poll()
    for fd in sources:
        poll.register(fd, select.POLLIN)
    for fd in outputs:
        poll.register(fd, 0)  # POLLERR and POLLHUP come unasked
    return bool(poll.poll(None if seconds is None else seconds * 1000))


async def _readable(sources: Sequence[int], seconds: float | None) -> None:
    """Wait until one of some file descriptors is readable, or the time is over."""
    import asyncio  # noqa: PLC0415 - most who watch do it without, and it takes its time

    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    for fd in sources:
        loop.add_reader(fd, wake)
    timer = None if seconds is None else loop.call_later(seconds, wake)
    try:
        await woken
    finally:
        for fd in sources:
            loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()
