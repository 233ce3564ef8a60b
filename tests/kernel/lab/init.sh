#!/bin/busybox sh
# The first process of the guest. It makes the host's own files its root, read-only below an overlay
# in memory, and starts the agent with the very Python that runs the tests. What it needs to know
# comes as environment, from the kernel's command line.

B=/bin/busybox
fail() {
	echo "lab: $*"
	$B echo o > /proc/sysrq-trigger
	$B sleep 60
}

$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
	[ ! -e "$module" ] || $B insmod "$module" || fail "cannot load $module"
done

$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host ||
	fail "cannot mount the host's files"
$B mount -t tmpfs tmpfs /overlay
$B mkdir /overlay/upper /overlay/work
$B mount -t overlay -o lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work overlay /root ||
	fail "cannot lay an overlay over the host's files"

for folder in proc sys dev; do
	$B mkdir -p /root/$folder
	$B mount --move /$folder /root/$folder
done
# Not /tmp: the checkout or its Python may lie there.
for folder in run dev/shm; do
	$B mkdir -p /root/$folder
	$B mount -t tmpfs tmpfs /root/$folder
done
release=$($B uname -r)
$B mkdir -p "/root/lib/modules/$release"
$B mount --bind "/root$lab_modules" "/root/lib/modules/$release" || fail "cannot see $lab_modules"

exec $B switch_root /root /bin/sh -c "
	export HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	cd '$lab_checkout' && '$lab_python' -m tests.kernel.lab.agent
	echo 'lab: the agent ended'
	echo o > /proc/sysrq-trigger
	sleep 60"
