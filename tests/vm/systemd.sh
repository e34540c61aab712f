#!/bin/sh
# usage: systemd.sh FOLDER USER COMMAND: boot User-Mode Linux with systemd as process 1 on a Debian in
# FOLDER (made when missing), run COMMAND there as USER beside a lingering session of systemd's, show
# what it prints and end with its exit status. By root: the guest's files are root's, and nothing but
# FOLDER, and the folders of /var/lib/sbx-dev read-only, is shown to it.
set -eu
system=$1 user=$2 command=$3
deadline=${VM_SECONDS:-900}
uid=$(id -u "$user")
packages=systemd-sysv,dbus,dbus-user-session,libpam-systemd,uidmap,python3,kmod,procps,iproute2

if ! [ -e "$system/usr/bin/systemctl" ]; then
    . /etc/os-release
    # shellcheck disable=SC2046  # two words: the mirror and the name of the release there
    set -- $(python3 "$(dirname "$0")/../support/apt_mirror.py" "$VERSION_CODENAME")
    rm -rf "$system.partial"
    debootstrap --variant=minbase --include="$packages" "$2" "$system.partial" "$1" >"$system.log" 2>&1
    rm -rf "$system.partial"/var/cache/apt/archives/*.deb
    mv "$system.partial" "$system"
fi

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
chmod 711 "$results"
install -o "$user" -d "$results/own"
printf '%s\n' "$command" >"$results/command"

mkdir -p "$system/lib/modules" "$system/mnt/results" "$system/var/lib/sbx-dev" "$system/var/lib/systemd/linger"
[ -d "$system/lib/modules/$(ls /usr/lib/uml/modules)" ] || cp -a /usr/lib/uml/modules/. "$system/lib/modules/"
chroot "$system" id -u "$user" >/dev/null 2>&1 || chroot "$system" useradd -m -u "$uid" -s /bin/sh "$user"
for file in subuid subgid; do echo "$user:100000:65536" >"$system/etc/$file"; done
: >"$system/var/lib/systemd/linger/$user"
: >"$system/etc/fstab"
cat >"$system/etc/systemd/system/sbx-tests.service" <<UNIT
[Unit]
After=user@$uid.service
Wants=user@$uid.service
[Service]
Type=oneshot
ExecStartPre=/bin/mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
ExecStartPre=/bin/mount -t hostfs -o $results results /mnt/results
ExecStartPre=/bin/mount -t hostfs -o /var/lib/sbx-dev,ro sbx-dev /var/lib/sbx-dev
ExecStart=-/bin/sh -c 'setpriv --reuid=$uid --regid=$uid --init-groups env -i HOME=/tmp USER=$user LANG=C.UTF-8 PATH=/usr/bin:/bin:/usr/sbin:/sbin XDG_RUNTIME_DIR=/run/user/$uid sh /mnt/results/command >/mnt/results/output 2>&1; echo \$\$? >/mnt/results/status'
ExecStart=-/bin/sync
ExecStopPost=/bin/systemctl poweroff -ff
UNIT
mkdir -p "$system/etc/systemd/system/multi-user.target.wants"
ln -sf ../sbx-tests.service "$system/etc/systemd/system/multi-user.target.wants/sbx-tests.service"

env -i HOME="$results" TMPDIR=/dev/shm PATH="$PATH" timeout --kill-after=5 "$deadline" linux.uml root=/dev/root rootfstype=hostfs \
    rootflags="$system" rw mem=1536M con=null con0=null,fd:1 uml_dir="$results/uml/" systemd.unit=multi-user.target \
    quiet </dev/null >"$results/console" 2>&1 || true
cat "$results/output" 2>/dev/null || true
[ -s "$results/status" ] || { tail -n 40 "$results/console" >&2; echo "the guest ended before its command" >&2; exit 1; }
exit "$(cat "$results/status")"
