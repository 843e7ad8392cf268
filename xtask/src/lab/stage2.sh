# Second stage of the lab, process 1 in the final root: sets the machine up, runs the command, tells its status.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
bb=/run/lab/busybox
for word in $($bb cat /proc/cmdline); do
    case $word in lab.*=*) $bb true; name=${word%%=*}; export "LAB_${name#lab.}=${word#*=}";; esac
done
release=$($bb uname -r)
$bb mkdir -p "/lib/modules/$release"
$bb mount --bind "$LAB_modules/$release" "/lib/modules/$release"
# Only what nothing else loads: file systems, links and netfilter modules are loaded by the kernel when they are asked for.
/sbin/modprobe -a virtio_console virtio_blk || $bb echo "lab: modules are missing"
/sbin/modprobe -a kvm-amd tun loop fuse vsock virtio_rng & modules=$!

$bb mkdir -p /dev/pts /dev/shm
$bb mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /dev/pts
$bb mount -t tmpfs -o mode=1777 shm /dev/shm
$bb ln -sf /proc/self/fd /dev/fd
$bb ln -sf fd/0 /dev/stdin
$bb ln -sf fd/1 /dev/stdout
$bb ln -sf fd/2 /dev/stderr
$bb mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in $($bb cat /sys/fs/cgroup/cgroup.controllers); do
    $bb echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
$bb mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
$bb ip link set lo up
$bb hostname lab
$bb mkdir -p /scratch /run/lock
$bb mount -t ext4 /dev/vda /scratch
$bb chmod 1777 /scratch

wait $modules || $bb echo "lab: modules are missing"
control=$($bb echo /dev/vport*p1)
exec 3<>"$control"
$bb echo "ready $($bb cut -d' ' -f1 /proc/uptime)" >&3
read -r length <&3
$bb head -c "$length" <&3 > /run/lab/command

if [ "$LAB_shell" = 1 ]; then
    $bb setsid -c /bin/sh /run/lab/command < /dev/hvc0 > /dev/hvc0 2>&1
    status=$?
else
    # Through pipes, because a port can be opened only once and a program may reopen its /dev/stdout.
    $bb mkfifo /run/lab/out /run/lab/err
    $bb cat < /run/lab/out > "${control%1}2" & out=$!
    $bb cat < /run/lab/err > "${control%1}3" & err=$!
    /bin/sh /run/lab/command < /dev/null > /run/lab/out 2> /run/lab/err 3>&-
    status=$?
    # A process left behind may hold the pipes open for ever.
    ( $bb sleep 3; $bb kill $out $err ) 2>/dev/null 3>&- &
    wait $out $err
    $bb printf '\0lab-end\0' > "${control%1}2"
    $bb printf '\0lab-end\0' > "${control%1}3"
fi
$bb echo "exit $status" >&3
# The host ends the machine now.
while :; do $bb sleep 3600; done
