#!/bin/busybox sh
# First stage of the lab, in its initramfs: shows the host's file system as root, with all writes kept in memory.
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod "$module" || $bb echo "lab: cannot insert $module"; done
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower || exec $bb sh
$bb mount -t tmpfs -o mode=755,size=80% rw /rw
$bb mkdir /rw/upper /rw/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /newroot || exec $bb sh
for dir in proc sys dev; do $bb mount --move /$dir /newroot/$dir; done
$bb mount -t tmpfs -o mode=755,nosuid,nodev run /newroot/run
$bb mkdir /newroot/run/lab
$bb cp $bb /stage2 /newroot/run/lab/
exec $bb switch_root /newroot /run/lab/busybox sh /run/lab/stage2
