#!/bin/busybox sh
# The machine's first program: mounts this host's files as the root directory, then starts guest-main.sh.
busybox() { /bin/busybox "$@"; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
exec > /dev/console 2>&1
while read -r module; do busybox insmod "/modules/$module"; done < /modules/order
for word in $(busybox cat /proc/cmdline); do
    case $word in labmodules=*) modules=${word#*=} ;; esac
done
nine=trans=virtio,version=9p2000.L,msize=512000
busybox mount -t 9p -o "ro,cache=loose,$nine" root /host
busybox mount -t 9p -o "ro,cache=loose,$nine" extra /extra
busybox mount -t tmpfs -o mode=755 tmpfs /rw
busybox mkdir /rw/up /rw/work
busybox mount -t overlay -o "lowerdir=/extra:/host,upperdir=/rw/up,workdir=/rw/work" overlay /new
busybox mkdir -p /new/lab /new/out /new/run /new/usr/lib/modules
busybox mount --move /proc /new/proc
busybox mount --move /sys /new/sys
busybox mount --move /dev /new/dev
busybox mount -t tmpfs -o mode=755 tmpfs /new/run
busybox mount -t 9p -o "rw,$nine" work /new/lab
busybox mount -t 9p -o "rw,$nine" out /new/out
busybox mount --bind "/host$modules" /new/usr/lib/modules
exec /bin/busybox switch_root /new /bin/bash /lab/main
