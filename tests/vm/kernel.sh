#!/bin/sh
# usage: kernel.sh FOLDER: the newest kernel of this release for machines, its modules, and a first root
# file system that goes on to the files of the host, in FOLDER. Only fetched: nothing is installed.
set -eu
folder=$1
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
[ "$(cat "$folder/package" 2>/dev/null)" != "$package" ] || exit 0
rm -rf "$folder"
mkdir -p "$folder/fetched" "$folder/first/bin" "$folder/first/modules" "$folder/usr"
for name in proc sys dev root; do mkdir "$folder/first/$name"; done
(cd "$folder/fetched" && apt-get download -qq "$package")
dpkg-deb --fsys-tarfile "$folder"/fetched/*.deb | tar -C "$folder" -x ./lib/modules ./boot
rm -rf "$folder/fetched"
ln -s ../lib "$folder/usr/lib"
cp "$folder"/boot/vmlinuz-* "$folder/vmlinuz"
release=$(ls "$folder/lib/modules")
depmod -b "$folder" "$release"
modules='netfs fscache virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci 9pnet 9pnet_virtio 9p'
for module in $modules; do
    find "$folder/lib/modules" -name "$module.ko" -exec cp {} "$folder/first/modules/" \;
done
cp "$(command -v busybox)" "$folder/first/bin/busybox"
cat >"$folder/first/init" <<INIT
#!/bin/busybox sh
busybox=/bin/busybox
\$busybox mount -t proc proc /proc
\$busybox mount -t sysfs sysfs /sys
\$busybox mount -t devtmpfs dev /dev
# Which of them needs which has changed between kernels.
for round in 1 2 3; do for module in $modules; do \$busybox insmod /modules/\$module.ko 2>/dev/null; done; done
\$busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /root || \$busybox poweroff -f
for name in proc sys dev; do \$busybox mount --move /\$name /root/\$name; done
exec \$busybox switch_root /root /bin/sh "\$(\$busybox sed 's/.*results=\\([^ ]*\\).*/\\1/' /root/proc/cmdline)/init"
INIT
chmod 755 "$folder/first/init"
(cd "$folder/first" && find . | busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$folder/initrd"
chmod -R a+rX "$folder"
echo "$package" >"$folder/package"
