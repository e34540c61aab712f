#!/bin/sh
# What `make run` shows: one command under the strict policy. Arguments: the sbx command, a folder
# for the root file system.
set -eu
sbx=$1
root=$2

if ! [ -e "$root/bin/sh" ] && ! [ -e "$root/usr/bin/sh" ]; then
    rm -rf "$root"
    mkdir -p "$(dirname "$root")"
    echo "\$ sbx rootfs from-host $root sh cat ls id uname hostname mount ..."
    "$sbx" rootfs from-host "$root" sh cat ls id uname hostname mount kill sleep ps head
fi

secret=$HOME/.cache/sbx-dev/secret
echo "a secret of the host" >"$secret"
sleep 60 &
neighbour=$!
trap 'kill $neighbour 2>/dev/null; rm -f "$secret"' EXIT

export secret neighbour
echo "\$ sbx run --policy strict --report - -e secret -e neighbour $root sh -c '…'"
"$sbx" run --policy strict --report - -e secret -e neighbour "$root" sh -c '
    echo "it runs on $(uname -sr), as $(id)"
    echo "host name: $(hostname), processes it sees: $(ls /proc | grep -c "^[0-9]" 2>/dev/null || ls -d /proc/[0-9]* | { n=0; while read -r _; do n=$((n+1)); done; echo $n; })"
    try() {
        what=$1
        shift
        if said=$("$@" 2>&1); then echo "  REACHED      $what"; else echo "  out of reach $what: ${said##*: }"; fi
    }
    try "a file in the home of the caller" cat "$secret"
    try "the password hashes of the host" cat /etc/shadow
    try "a process of the caller" kill -0 "$neighbour"
    try "the memory of process 1" cat /proc/1/mem
    try "the network (a route to anywhere)" sh -c "head -n 2 /proc/net/route | grep -q 0 "
    try "a new mount" mount -t tmpfs none /tmp
    try "the kernel log" cat /dev/kmsg
    try "the disks" ls /dev/vda /dev/sda /dev/nvme0n1
    echo written >/tmp/file && echo "  its own /tmp it can write, and it is gone afterwards"
'
