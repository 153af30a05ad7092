#!/bin/bash
# Runs the command in the machine, leaves its exit status in a file, and ends the machine.
exec < /dev/null > /dev/hvc0 2>&1
stty raw -echo < /dev/hvc0
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t tmpfs tmpfs /dev/shm
modprobe virtio_blk
bash /lab/command
echo $? > /lab/status
sync
echo b > /proc/sysrq-trigger
sleep 10
