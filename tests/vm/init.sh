#!/bin/sh
# Process 1 of the guest. The kernel's command line names the folder of results on the host; nothing
# else of the host is written: the root is read-only, and what must be writable is a tmpfs, or the
# disk, a file in that folder.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
ln -s /proc/self/fd /dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${number%:*} /dev/${number#*:}; done
for folder in /dev/shm /tmp /var/tmp; do mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs $folder; done
for folder in /run /mnt; do mount -t tmpfs -o mode=755,nosuid,nodev tmpfs $folder; done

mkdir -p /mnt/results /mnt/modules/lib /mnt/modules/usr/lib
told() { sed -n "s/.*$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
modules=$(told modules)
if [ -n "$modules" ]; then # a machine
    disk=/dev/vda swap=/dev/vdb
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 results /mnt/results
else
    disk=/dev/ubda swap=/dev/ubdb modules=/mnt/modules
    mount -t hostfs -o "$(told results)" results /mnt/results
    ln -s /usr/lib/uml/modules /mnt/modules/lib/modules
    ln -s /usr/lib/uml/modules /mnt/modules/usr/lib/modules
fi
for module in virtio_blk ext4 overlay tun veth bridge sch_netem sch_tbf nf_tables nft_masq \
    nft_chain_nat nft_ct nft_fib_inet nft_reject_inet; do modprobe -q -d "$modules" $module; done

# Root's networks keep their state there; this root is the host's, and read-only.
if [ "$disk" = /dev/vda ]; then
    mkdir -p /mnt/lib/upper /mnt/lib/work
    mount -t overlay -o lowerdir=/var/lib,upperdir=/mnt/lib/upper,workdir=/mnt/lib/work overlay /var/lib
    mkdir -p /var/lib/sbx
fi

# Its top belongs to the user, as a home does.
mkdir /mnt/disk
mount -t ext4 -o nosuid,nodev $disk /mnt/disk

# The loopback interface is up, as on every host.
python3 -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))'

swapon $swap

# A subtree of the user's own, as systemd would delegate it; the user's command goes into a leaf of it.
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
for name in cpu memory pids io cpuset; do echo +$name >/sys/fs/cgroup/cgroup.subtree_control; done 2>/mnt/lacking
user=/sys/fs/cgroup/user
mkdir -p $user/command
read -r owner </mnt/results/owner
for file in '' cgroup.procs cgroup.threads cgroup.subtree_control; do chown "$owner" "$user/$file"; done
for file in '' cgroup.procs cgroup.threads cgroup.subtree_control; do chown "$owner" "$user/command/$file"; done

sh /mnt/results/command >/mnt/results/output 2>&1 </dev/null
echo $? >/mnt/results/status
sync
python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321fedc)'
