"""Disks in use: mounts, swap, and what dm, LVM, md, bcache, btrfs and ZFS have made of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders.mounts import nodes_of, read_mounts, run_from, unescaped
from vfiohost.holders.reading import class_links, names_in, target_of, text_of
from vfiohost.holders.subjects import owners
from vfiohost.usage import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.holders.mounts import Mount
    from vfiohost.holders.subjects import Subject
    from vfiohost.sysfs import Sysfs
    from vfiohost.usage import UseKind

_BLOCK = "sys/class/block"
_BTRFS = "sys/fs/btrfs"
_JOURNALS = "proc/fs/jbd2"
_POOLS = "proc/spl/kstat/zfs"
_NVMET = "sys/kernel/config/nvmet/subsystems"
_TARGETS = "sys/kernel/config/target/core"
_POOL = re.compile(r"[/@]")
_NAMED = 5


@attrs.frozen
class _Block:
    """A block device: its name, its number, its nodes in ``dev``, and its name for people."""

    name: str
    number: str | None
    nodes: frozenset[str]
    shown: str


@attrs.frozen
class _Btrfs:
    """A btrfs that is mounted: the names of its disks, and its mounts, as far as they show."""

    uuid: str
    disks: frozenset[str]
    mounts: tuple[Mount, ...]


@attrs.frozen
class _Host:
    """What the whole host has in use.

    Attributes:
        mounts: what is mounted.
        running: which of that the host runs from.
        swaps: the nodes of each swap device.
        btrfs: the file systems that may have several disks.
        journals: the names of jbd2's journals; that of a whole device is the device's.
        pools: ZFS pools.
        exports: the nodes of each disk that the kernel gives to other hosts, and the file.
    """

    mounts: tuple[Mount, ...]
    running: frozenset[Mount]
    swaps: tuple[frozenset[str], ...]
    btrfs: tuple[_Btrfs, ...]
    journals: frozenset[str]
    pools: tuple[str, ...]
    exports: tuple[tuple[frozenset[str], str], ...]

    def kind_of(self, mount: Mount) -> UseKind:
        return "root-disk" if mount in self.running else "mount"


def storage_uses(
    sysfs: Sysfs,
    subjects: Sequence[Subject],
    namespaces: Mapping[str, int],
    incomplete: list[str],
) -> Iterator[Use]:
    """The uses of the block devices of some functions.

    Reads ``sys/class/block`` (``holders`` and ``bcache`` of each device and what those hold in
    turn), ``proc/swaps``, ``mountinfo`` of process 1 and of one process of each other mount
    namespace, ``sys/fs/btrfs/*/devices``, ``proc/fs/jbd2``, ``sys/kernel/config`` (``nvmet`` and
    ``target``), ``proc/spl/kstat/zfs`` and, where that has pools, ``run/udev/data``.

    Args:
        sysfs: the host.
        subjects: the devices.
        namespaces: one process of each mount namespace.
        incomplete: gets what could not be found out.
    """
    disks = disks_of(sysfs, subjects, incomplete)
    if not disks:
        return
    unseen: list[str] = []
    host = _read_host(sysfs, namespaces, incomplete, unseen)
    for subject, names in disks.items():
        found = []
        for name, shown, above in stacks(sysfs, names):
            if above is not None:
                detail = f"{shown} is made of {above}"
                found.append(Use("block-holder", subject, detail, _link(sysfs, above, name)))
            found += _uses_of(sysfs, subject, _block(sysfs, name), host)
        yield from found
        if not found:
            incomplete += unseen


def disks_of(
    sysfs: Sysfs, subjects: Sequence[Subject], incomplete: list[str]
) -> dict[str, list[str]]:
    """The block devices below each function, partitions too; by its name."""
    found: dict[str, list[str]] = {}
    functions = [s for s in subjects if s.device is not None]
    if not functions:
        return found
    for name, path in class_links(sysfs, "block", incomplete):
        for subject in owners(sysfs, path, functions):
            found.setdefault(subject.name, []).append(name)
    return found


def stacks(sysfs: Sysfs, names: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """Block devices and all that is made of them: name, name for people, what it is made of.

    A device's partitions follow it, made of nothing: they are the device itself. What has a device
    open says so in ``holders`` (``bd_link_disk_holder`` in ``block/holder.c``), but for loop
    devices, which have ``loop/backing_file``.
    """
    loops = {name: text_of(sysfs, f"{_BLOCK}/{name}/loop/backing_file") for name in _loops(sysfs)}
    waiting: list[tuple[str, str | None]] = [(name, None) for name in names]
    seen = set()
    while waiting:
        name, above = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        block = _block(sysfs, name)
        yield name, block.shown, above
        waiting += [(holder, name) for holder in names_in(sysfs, f"{_BLOCK}/{name}/holders")]
        waiting += [(loop, name) for loop, file in loops.items() if file in block.nodes]
        waiting += [(partition, None) for partition in _partitions(sysfs, name)]


def _loops(sysfs: Sysfs) -> Iterator[str]:
    return (n for n in names_in(sysfs, _BLOCK) if re.fullmatch(r"loop[0-9]+", n))


def _partitions(sysfs: Sysfs, name: str) -> Iterator[str]:
    """``md0p1`` of ``md0`` (``add_partition`` in ``block/partitions/core.c``)."""
    path = f"{_BLOCK}/{name}"
    for entry in names_in(sysfs, path):
        if entry.startswith(name) and text_of(sysfs, f"{path}/{entry}/partition") is not None:
            yield entry


def _block(sysfs: Sysfs, name: str) -> _Block:
    mapped = text_of(sysfs, f"{_BLOCK}/{name}/dm/name")
    # sysfs has "!" where a node's name has "/" (kobject_set_name_vargs).
    nodes = {f"/dev/{name.replace('!', '/')}", *([f"/dev/mapper/{mapped}"] if mapped else [])}
    shown = f"{name} ({mapped})" if mapped else name
    return _Block(name, text_of(sysfs, f"{_BLOCK}/{name}/dev"), frozenset(nodes), shown)


def _link(sysfs: Sysfs, below: str, name: str) -> str:
    """The file that says what a device is made of."""
    if text_of(sysfs, f"{_BLOCK}/{name}/loop/backing_file") is not None:
        return f"/{_BLOCK}/{name}/loop/backing_file"
    return f"/{_BLOCK}/{below}/holders/{name}"


# ---- one block device --------------------------------------------------------------------------


def _uses_of(sysfs: Sysfs, subject: str, block: _Block, host: _Host) -> Iterator[Use]:
    """The uses of one block device."""
    for mount in host.mounts:
        # A file system of several disks has a number of its own (btrfs), but names one of them.
        if block.number == mount.number or not block.nodes.isdisjoint(mount.nodes):
            detail = f"{block.shown} is mounted at {mount.place}"
            yield Use(host.kind_of(mount), subject, detail, mount.via)
        for what, nodes in mount.parts:
            if not block.nodes.isdisjoint(nodes):
                detail = f"{block.shown} is the {what} of the file system at {mount.place}"
                yield Use(host.kind_of(mount), subject, detail, mount.via)
    if block.name in host.journals:
        detail = f"{block.shown} is the journal of a file system that is mounted"
        yield Use("mount", subject, detail, f"/{_JOURNALS}/{block.name}")
    for nodes in host.swaps:
        if block.nodes & nodes:
            node = min(block.nodes & nodes)
            yield Use("swap", subject, f"the host swaps to {node}", "/proc/swaps")
    for nodes, via in host.exports:
        if not block.nodes.isdisjoint(nodes):
            detail = f"the kernel exports {block.shown} to other hosts"
            yield Use("block-holder", subject, detail, f"/{via}")
    yield from _btrfs_uses(subject, block, host)
    yield from _bcache_uses(sysfs, subject, block)
    yield from _zfs_uses(sysfs, subject, block, host)


def _btrfs_uses(subject: str, block: _Block, host: _Host) -> Iterator[Use]:
    """The part in a btrfs that mountinfo names another disk of."""
    for each in host.btrfs:
        if block.name not in each.disks:
            continue
        via = f"/{_BTRFS}/{each.uuid}/devices/{block.name}"
        for mount in each.mounts:
            if not block.nodes & mount.nodes:
                detail = f"{block.shown} is part of the btrfs at {mount.place}"
                yield Use(host.kind_of(mount), subject, detail, via)
        if not each.mounts:
            detail = f"{block.shown} is part of a btrfs that is mounted, and nothing shows where"
            yield Use("mount", subject, detail, via)


def _bcache_uses(sysfs: Sysfs, subject: str, block: _Block) -> Iterator[Use]:
    """A cache or a backing device that no bcache device is made of yet.

    Those that one is made of have it in ``holders``; a bcache device itself has a link there
    (``register_bdev``, ``register_cache`` and ``bch_cached_dev_run`` in
    ``drivers/md/bcache/super.c``).
    """
    path = f"{_BLOCK}/{block.name}/bcache"
    if not names_in(sysfs, path) or target_of(sysfs, path) is not None:
        return
    holders = names_in(sysfs, f"{_BLOCK}/{block.name}/holders")
    if not any(holder.startswith("bcache") for holder in holders):
        yield Use("block-holder", subject, f"{block.shown} is registered with bcache", f"/{path}")


def _zfs_uses(sysfs: Sysfs, subject: str, block: _Block, host: _Host) -> Iterator[Use]:
    """The part in a ZFS pool that is imported, where udev has seen ZFS's label on it.

    No file of the kernel's says it: ZFS opens its disks without a name in ``holders``.
    """
    via = f"run/udev/data/b{block.number}"
    lines = (text_of(sysfs, via) or "").splitlines() if host.pools and block.number else []
    if "E:ID_FS_TYPE=zfs_member" not in lines:
        return
    for pool in host.pools:
        if f"E:ID_FS_LABEL={pool.replace(' ', '_')}" in lines:
            roots = [
                m for m in host.running if m.kind == "zfs" and _POOL.split(m.source)[0] == pool
            ]
            kind: UseKind = "root-disk" if roots else "block-holder"
            yield Use(kind, subject, f"{block.shown} is part of the ZFS pool {pool}", f"/{via}")


# ---- the host ----------------------------------------------------------------------------------


def _read_host(
    sysfs: Sysfs, namespaces: Mapping[str, int], incomplete: list[str], unseen: list[str]
) -> _Host:
    """Read what is in use; ``unseen`` gets why a disk that seems unused may be in use."""
    mounts = read_mounts(sysfs, namespaces, incomplete)
    running = run_from(sysfs, mounts, unseen)
    imported = [n for n in names_in(sysfs, _POOLS) if names_in(sysfs, f"{_POOLS}/{n}")]
    mounted = [_POOL.split(mount.source)[0] for mount in mounts if mount.kind == "zfs"]
    pools = tuple(dict.fromkeys((*imported, *mounted)))
    if pools:
        more = ", …" if len(pools) > _NAMED else ""
        unseen.append(
            f"There are ZFS pools here ({', '.join(pools[:_NAMED])}{more}), and no file says on "
            "which disks."
        )
    return _Host(
        mounts=mounts,
        running=running,
        swaps=tuple(nodes_of(sysfs, node) for node in _swaps(sysfs, incomplete)),
        btrfs=tuple(_btrfs(sysfs, mounts)),
        journals=frozenset(names_in(sysfs, _JOURNALS)),
        pools=pools,
        exports=tuple(_exports(sysfs)),
    )


def _exports(sysfs: Sysfs) -> Iterator[tuple[frozenset[str], str]]:
    """The disks of NVMe and SCSI targets: the kernel has them open, and is no holder of them.

    ``nvmet_ns_device_path_show`` in ``drivers/nvme/target/configfs.c``,
    ``target_dev_udev_path_show`` in ``drivers/target/target_core_configfs.c``.
    """
    files = []
    for name in names_in(sysfs, _NVMET):
        spaces = f"{_NVMET}/{name}/namespaces"
        files += [f"{spaces}/{number}/device_path" for number in names_in(sysfs, spaces)]
    for name in names_in(sysfs, _TARGETS):
        backstores = names_in(sysfs, f"{_TARGETS}/{name}")
        files += [f"{_TARGETS}/{name}/{each}/udev_path" for each in backstores]
    for file in files:
        node = text_of(sysfs, file) or ""
        is_on = text_of(sysfs, f"{file.rpartition('/')[0]}/enable") == "1"
        if node.startswith("/dev/") and is_on:
            yield nodes_of(sysfs, node), file


def _swaps(sysfs: Sysfs, incomplete: list[str]) -> list[str]:
    """The nodes in ``proc/swaps`` (``swap_show`` in ``mm/swapfile.c``)."""
    lines = (text_of(sysfs, "proc/swaps", incomplete) or "").splitlines()[1:]
    return [unescaped(line.split()[0]) for line in lines if line.split()]


def _btrfs(sysfs: Sysfs, mounts: Iterable[Mount]) -> Iterator[_Btrfs]:
    """The btrfs that are mounted, with their disks (``btrfs_sysfs_add_device``).

    mountinfo names one disk of each (``btrfs_show_devname`` in ``fs/btrfs/super.c``). A mount of a
    node that is none of theirs (``/dev/root``) may be that of any one that shows no other.
    """
    ours = [mount for mount in mounts if mount.kind == "btrfs"]
    folders = ((uuid, f"{_BTRFS}/{uuid}/devices") for uuid in names_in(sysfs, _BTRFS))
    disks = {uuid: n for uuid, path in folders if (n := frozenset(names_in(sysfs, path)))}
    found = {}
    for uuid, names in disks.items():
        nodes = frozenset().union(*(_block(sysfs, name).nodes for name in names))
        found[uuid] = tuple(mount for mount in ours if mount.nodes & nodes)
    known = {mount for its in found.values() for mount in its}
    others = tuple(mount for mount in ours if mount not in known)
    yield from (_Btrfs(uuid, names, found[uuid] or others) for uuid, names in disks.items())
