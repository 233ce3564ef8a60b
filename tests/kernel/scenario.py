"""One language for what is done to a kernel and what comes of it, for every executor of it.

A scenario is a sequence of steps, each an action with its outcome or a fact that must hold. An
executor is a kernel that actions are done to: the real one in the lab (:class:`RealKernel`), or
another that claims to do the same. All is plain data: paths begin with a slash, outcomes are texts.

Outcomes: ``ok``; ``blocks`` (it waits for another, and goes on); what failed with
its errno: ``open ENOENT``, ``write EBUSY``, ``SET_CONTAINER EPERM``. A module's load ``fails``.
Stores made together run ``side by side`` or ``one by one``; if some fail it is the list of all that
came out, sorted.
"""

from __future__ import annotations

from errno import errorcode
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tests.kernel.lab import guest, vfio_user
from tests.kernel.waiting import POLL, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.kernel.lab.vm import Call, Machine


TOGETHER_SECONDS = 1.0
"""What each of the stores that are made together takes at least: drivers are told to."""


@attrs.frozen
class Store:
    """One open and one write; ``as_root`` says whose."""

    path: str
    value: str
    as_root: bool = True


@attrs.frozen
class Load:
    """Load a module."""

    module: str


@attrs.frozen
class Unload:
    """Unload a module, as ``modprobe -r`` does."""

    module: str


@attrs.frozen
class Open:
    """A process opens a device (PCI address or mdev's UUID) through VFIO, or its group alone.

    ``noiommu`` is the container's type: ``VFIO_NOIOMMU_IOMMU`` instead of type 1.
    ``options`` follow the device's name where it is asked for: ``vf_token=UUID``.
    """

    subject: str
    only_group: bool = False
    noiommu: bool = False
    options: str = ""


@attrs.frozen
class GetDevice:
    """That process asks the group that it opened last for one of its devices."""

    subject: str


@attrs.frozen
class OpenCdev:
    """A process opens a device by its own node."""

    subject: str


@attrs.frozen
class Ioctl:
    """An ioctl on a cdev, or on an iommufd.

    Iommufds and IO address spaces have names. An iommufd is opened when it is first named.

    Attributes:
        name: ``BIND_IOMMUFD``, ``ATTACH_IOMMUFD_PT``, ``DETACH_IOMMUFD_PT`` of a cdev;
            ``IOAS_ALLOC``, ``DESTROY`` of an iommufd.
        on: the device, or the iommufd.
        argument: the iommufd to bind to (see ``vfio_user``), or the IO address space.
    """

    name: str
    on: str
    argument: str = ""


@attrs.frozen
class Close:
    """That process closes all that it has open."""


@attrs.frozen
class Finish:
    """Wait for the action that blocked, the first one of several; its outcome is this one's."""


@attrs.frozen
class Keep:
    """Open an attribute for writing, and its folder; both stay open."""

    path: str


@attrs.frozen
class Write:
    """One write to the attribute that is kept open."""

    value: str


@attrs.frozen
class OpenAgain:
    """Open the attribute once more, by its name in the folder that is kept open."""


@attrs.frozen
class Together:
    """Stores that begin at the same time, in threads of one process; each takes about as long.

    With ``one_file`` all go through one file descriptor.
    """

    stores: tuple[Store, ...]
    one_file: bool = False


Action = (
    Store
    | Load
    | Unload
    | Open
    | GetDevice
    | OpenCdev
    | Ioctl
    | Close
    | Finish
    | Keep
    | Write
    | OpenAgain
    | Together
)


@attrs.frozen
class Do:
    """An action that has this outcome."""

    action: Action
    outcome: str = "ok"


@attrs.frozen
class Link:
    """A link's last component, or ``None``: there is no such link."""

    path: str
    target: str | None


@attrs.frozen
class Text:
    """A file's content without the newline at its end, or ``None``: there is no such file."""

    path: str
    content: str | None


@attrs.frozen
class Listed:
    """Whether a folder has an entry."""

    path: str
    name: str
    is_there: bool


@attrs.frozen
class Names:
    """All entries of a folder, sorted."""

    path: str
    names: tuple[str, ...]


@attrs.frozen
class Node:
    """Whether the node of a device's group is there; ``noiommu`` says of which name."""

    subject: str
    is_there: bool
    noiommu: bool = False


@attrs.frozen
class Answers:
    """Whether a file's reading comes back, with whatever content."""

    path: str
    does: bool = True


Step = Do | Link | Text | Listed | Names | Node | Answers


class Executor(Protocol):
    """A kernel that scenarios are run on. Reading tells ``blocks`` when there is no answer."""

    def perform(self, action: Action) -> str:
        """Do an action and return its outcome."""

    def link(self, path: str) -> str | None:
        """Read the last component of a link's target."""

    def text(self, path: str) -> str | None:
        """Read a file without the newline at its end."""

    def names(self, path: str) -> list[str]:
        """List a folder; one that is not there is empty."""


def run(steps: Iterable[Step], executor: Executor) -> None:
    """Run a scenario.

    Raises:
        AssertionError: a step came out otherwise; says which one, and how.
    """
    for number, step in enumerate(steps, 1):
        expected, found = _take(step, executor)
        assert found == expected, f"step {number}, {step}: {found}"


def _take(step: Step, executor: Executor) -> tuple[object, object]:
    """Take a step: what it should give and what it gives."""
    match step:
        case Do(action, outcome):
            return outcome, executor.perform(action)
        case Link(path, target):
            return target, executor.link(path)
        case Text(path, content):
            return content, executor.text(path)
        case Listed() | Names() | Node():
            return _take_listing(step, executor)
        case Answers(path, does):
            return does, executor.text(path) not in (None, "blocks")


def _take_listing(step: Listed | Names | Node, executor: Executor) -> tuple[object, object]:
    """Take a step that is about what is in a folder."""
    match step:
        case Listed(path, name, is_there):
            return is_there, name in executor.names(path)
        case Names(path, names):
            return names, tuple(executor.names(path))
        case Node(subject, is_there, noiommu):
            bus = "pci" if ":" in subject else "mdev"
            group = executor.link(f"/sys/bus/{bus}/devices/{subject}/iommu_group")
            assert group is not None, f"{subject} has no group"
            name = f"noiommu-{group}" if noiommu else group
            return is_there, name in executor.names("/dev/vfio")


class RealKernel:
    """The kernel of a machine in the lab."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._blocked: list[Call] = []
        self._busy = 0

    def perform(self, action: Action) -> str:
        """Do an action and return its outcome."""
        match action:
            case Keep() | Write() | OpenAgain():
                return self._keeper(action)
            case Store(path, value, as_root):
                return self._store(path, value, as_root=as_root)
            case Load() | Unload():
                return self._modprobe(action)
            case Open() | GetDevice() | OpenCdev() | Ioctl() | Close():
                return self._use(action)
            case Finish():
                assert self._blocked, "nothing has blocked"
                return _outcome(self._blocked.pop(0).result())
            case Together(stores, one_file):
                return self._together(stores, one_file=one_file)

    def link(self, path: str) -> str | None:
        """Read the last component of a link's target."""
        name: str | None = self._machine.call(guest.readlink, path)
        return name

    def text(self, path: str) -> str | None:
        """Read a file without the newline at its end."""
        call, is_back = self._submit(guest.read_if_there, path)
        if not is_back:
            return "blocks"
        content: str | None = call.result()
        return None if content is None else content.removesuffix("\n")

    def names(self, path: str) -> list[str]:
        """List a folder; one that is not there is empty."""
        found: list[str] = self._machine.call(guest.listdir, path)
        return found

    def _use(self, action: Open | GetDevice | OpenCdev | Ioctl | Close) -> str:
        """Let the process that has devices open do something."""
        functions: dict[type, Callable[..., str | None]] = {
            Open: vfio_user.open_device,
            GetDevice: vfio_user.get_device,
            OpenCdev: vfio_user.open_cdev,
            Ioctl: vfio_user.ioctl,
            Close: vfio_user.close,
        }
        function = functions[type(action)]
        said = self._machine.call(function, worker="user", **attrs.asdict(action))
        return str(said or "ok")

    def _store(self, path: str, value: str, *, as_root: bool) -> str:
        call, is_back = self._submit(guest.store, path, value, as_root=as_root)
        if is_back:
            return _outcome(call.result())
        self._blocked.append(call)
        return "blocks"

    def _keeper(self, action: Keep | Write | OpenAgain) -> str:
        """Do something with the attribute that is kept open."""
        call = self._machine.call
        match action:
            case Keep(path):
                return _outcome(call(guest.keep, path, worker="keeper"))
            case Write(value):
                return _outcome(call(guest.write_kept, value, worker="keeper"))
            case OpenAgain():
                return _outcome(call(guest.open_again, worker="keeper"))

    def _together(self, stores: tuple[Store, ...], *, one_file: bool) -> str:
        pairs = [[store.path, store.value] for store in stores]
        done = self._machine.call(guest.store_together, pairs, one_file=one_file)
        outcomes = sorted(_outcome(failed) for failed, _ in done)
        if set(outcomes) != {"ok"}:
            return ", ".join(outcomes)
        # Side by side the last one ends with the first; one by one each ends that much after the
        # one before, however slow the guest is and whenever it stands still.
        ends = [end for _, end in done]
        halfway = (len(ends) - 1) * TOGETHER_SECONDS / 2
        return "side by side" if max(ends) - min(ends) < halfway else "one by one"

    def _submit(
        self, function: Callable[..., Any], *args: str, **options: bool
    ) -> tuple[Call, bool]:
        """Call a function in a process that waits for nothing, and tell whether it comes back."""
        worker = f"store-{self._busy}"  # those before it wait, or have waited
        call = self._machine.submit(function, *args, worker=worker, **options)
        watch = Watch(others_wait=self._busy > 0)
        while not call.done(POLL):
            if watch.is_stuck(self._machine.place_of(worker)):
                self._busy += 1
                return call, False
        return call, True

    def _modprobe(self, action: Load | Unload) -> str:
        options = ["-r"] if isinstance(action, Unload) else []
        command = ["modprobe", *options, action.module]
        status = self._machine.call(guest.run, command)["status"]
        return "fails" if status else "ok"


def _outcome(failed: list[str | int] | None) -> str:
    """Say what became of a store."""
    if failed is None:
        return "ok"
    phase, number = failed
    return f"{phase} {errorcode[int(number)]}"
