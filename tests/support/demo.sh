#!/bin/sh
# What `make run` shows: one command under the strict policy. Arguments: the sbx command, a folder
# for the root file system.
set -eu
sbx=$1
root=$2

if ! [ -e "$root/usr/bin/bash" ] && ! [ -e "$root/bin/bash" ]; then
    rm -rf "$root"
    mkdir -p "$(dirname "$root")"
    echo "\$ sbx rootfs from-host $root sh bash cat ls id uname mount"
    "$sbx" rootfs from-host "$root" sh bash cat ls id uname mount
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
    echo "host name: $(uname -n), processes that it sees: $(echo /proc/[0-9]*)"
    try() {
        what=$1
        shift
        if "$@" >/dev/null 2>/tmp/said; then
            echo "  REACHED      $what"
        else
            read -r said </tmp/said
            echo "  out of reach $what: ${said##*: }"
        fi
    }
    try "a file in the home of the caller" cat "$secret"
    try "the password hashes of the host" cat /etc/shadow
    try "a process of the caller" kill -0 "$neighbour"
    try "the memory of process 1" cat /proc/1/mem
    try "an address of the network" bash -c "exec 3<>/dev/tcp/192.0.2.1/80"
    try "a new mount" mount -t tmpfs none /tmp
    try "the kernel log" cat /dev/kmsg
    try "the disks" ls /dev/vda /dev/sda /dev/nvme0n1
    echo written >/tmp/file && echo "  its own /tmp it can write, and it is gone afterwards"
'
