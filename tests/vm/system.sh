#!/bin/sh
# usage: system.sh FOLDER USER: a Debian with systemd in FOLDER, made when missing, that runs what the
# kernel's command line names as its folder of results, beside a lingering session of USER's, and halts.
# By root: the files of a guest that boots it are root's.
set -eu
system=$1 user=$2
uid=$(id -u "$user")
packages=systemd-sysv,dbus,dbus-user-session,libpam-systemd,uidmap,python3,kmod,procps,iproute2

if ! [ -e "$system/usr/bin/systemctl" ]; then
    . /etc/os-release
    # shellcheck disable=SC2046  # two words: the mirror and the name of the release there
    set -- $(python3 "$(dirname "$0")/../support/apt_mirror.py" "$VERSION_CODENAME")
    rm -rf "$system.partial"
    debootstrap --variant=minbase --include="$packages" "$2" "$system.partial" "$1" >"$system.log" 2>&1 ||
        { tail -n 15 "$system.log" >&2; exit 1; }
    rm -rf "$system.partial"/var/cache/apt/archives/*.deb
    mv "$system.partial" "$system"
fi

mkdir -p "$system/lib/modules" "$system/mnt/results" "$system/var/lib/sbx-dev" "$system/var/lib/systemd/linger"
[ -d "$system/lib/modules/$(ls /usr/lib/uml/modules)" ] || cp -a /usr/lib/uml/modules/. "$system/lib/modules/"
chroot "$system" id -u "$user" >/dev/null 2>&1 || chroot "$system" useradd -m -u "$uid" -s /bin/sh "$user"
for file in subuid subgid; do echo "$user:100000:65536" >"$system/etc/$file"; done
: >"$system/var/lib/systemd/linger/$user"
: >"$system/etc/fstab"
cat >"$system/usr/local/sbin/sbx-tests" <<'SCRIPT'
#!/bin/sh
results=$(sed 's/.*results=\([^ ]*\).*/\1/' /proc/cmdline)
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
mount -t hostfs -o "$results" results /mnt/results
mount -t hostfs -o /var/lib/sbx-dev,ro sbx-dev /var/lib/sbx-dev
sh /mnt/results/command >/mnt/results/output 2>&1
echo $? >/mnt/results/status
sync
SCRIPT
chmod 755 "$system/usr/local/sbin/sbx-tests"
cat >"$system/etc/systemd/system/sbx-tests.service" <<UNIT
[Unit]
After=user@$uid.service
Wants=user@$uid.service
[Service]
Type=oneshot
ExecStart=-/usr/local/sbin/sbx-tests
ExecStopPost=/bin/systemctl poweroff -ff
UNIT
mkdir -p "$system/etc/systemd/system/multi-user.target.wants"
ln -sf ../sbx-tests.service "$system/etc/systemd/system/multi-user.target.wants/sbx-tests.service"
