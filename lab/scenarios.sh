#!/bin/bash
# The part of the lab that runs in the machine: for each scenario, sets up a device that fails in a
# known way, traces it while fio or another program uses it, and writes down what these counted.
#
#   scenarios.sh KERNEL SCENARIO...
#
# Leaves in /out: NAME.blktrace.* or NAME.bin, the trace; NAME.fio.json, fio's account; NAME.truth,
# lines of "NAME NUMBER"; NAME.log and NAME.dmesg, messages of programs and kernel.
set -u
HERE=$(dirname "$(readlink -f "$0")")
# Only version 8 of the records, of Linux 6.19 and later, has categories for all operations.
[ "$1" = 7.3 ] && LATEST=8 || LATEST=7
shift
ADAPTER=/sys/bus/pseudo/drivers/scsi_debug
NULLB=/sys/kernel/config/nullb

# --- tools ----------------------------------------------------------------------------------------

await() {  # COMMAND...: until it succeeds, 30 s at most
    local n
    for n in $(seq 600); do
        "$@" > /dev/null 2>&1 && return
        sleep 0.05
    done
    echo "waited 30 s for: $*"
    exit 1
}

truth() { echo "$1 $2" >> "/out/$SCENARIO.truth"; }

scsi_disk() {  # ARGUMENT...: a disk of scsi_debug; its name becomes DISK
    modprobe -r scsi_debug 2> /dev/null
    modprobe scsi_debug dev_size_mb=64 max_queue=64 ndelay=20000 "$@"
    modprobe sd_mod
    await compgen -G "$ADAPTER/adapter0/host*/target*/*/block/*"
    DISK=$(basename "$ADAPTER"/adapter0/host*/target*/*/block/*)
    await test -b "/dev/$DISK"
    await grep -q running "/sys/block/$DISK/device/state"
    quiet_queue
}

null_disk() {  # FIELD=VALUE...: a disk of null_blk; its name becomes DISK
    local field
    modprobe null_blk nr_devices=0
    mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
    mkdir "$NULLB/$SCENARIO"
    for field in "$@"; do echo "${field#*=}" > "$NULLB/$SCENARIO/${field%%=*}" || echo "no field $field"; done
    echo 1 > "$NULLB/$SCENARIO/power"
    # null_blk numbers its devices; since 6.12 it also names them as their directories.
    DISK=nullb$(cat "$NULLB/$SCENARIO/index")
    [ -b "/dev/$DISK" ] || DISK=$SCENARIO
    await test -b "/dev/$DISK"
    quiet_queue
}

quiet_queue() {  # no merging, so that the device sees the requests that fio makes
    echo none > "/sys/block/$DISK/queue/scheduler"
    echo 2 > "/sys/block/$DISK/queue/nomerges"
}

inject() {  # OPTS NTH: what scsi_debug does wrong at each NTH command
    echo "$2" > "$ADAPTER/every_nth"
    echo "$1" > "$ADAPTER/opts"
}

trace() {  # COMMAND...: runs it while DISK is traced
    local tracer into=/dev/shm/$SCENARIO
    mkdir "$into"
    case ${TRACER:-7} in
        blktrace) blktrace -d "/dev/$DISK" -a queue -a issue -a requeue -a complete \
            -o - > "$into/$SCENARIO.bin" & ;;
        *) python3 "$HERE/trace.py" "${TRACER:-7}" "/dev/$DISK" "$into/$SCENARIO" & ;;
    esac
    tracer=$!
    await is_filled "$into"  # the first record, the time of day, is there as soon as tracing begins
    count_begin
    "$@"
    count_end
    kill -INT $tracer
    wait $tracer || echo "the tracer ended with $?"
    cp "$into"/* /out
}
is_filled() { [ -n "$(find "$1" -type f -size +0)" ]; }

# Other counts of the kernel: the disk's statistics, the failed commands of SCSI, and how often the
# tracepoints of issues, requeues and refused commands were reached.
INSTANCE=/sys/kernel/tracing/instances/lab
statistics() { awk '{print $1, $3, $5, $7, $12, $14, $16}' "/sys/block/$DISK/stat"; }
scsi_errors() { cat "/sys/block/$DISK/device/ioerr_cnt" 2> /dev/null || echo 0; }
count_begin() {
    local event major minor
    IFS=: read -r major minor < "/sys/block/$DISK/dev"
    mkdir -p $INSTANCE
    echo > $INSTANCE/trace
    for event in block_rq_issue block_rq_requeue; do
        echo "dev == $((major << 20 | minor))" > $INSTANCE/events/block/$event/filter
        echo 1 > $INSTANCE/events/block/$event/enable
    done
    echo 1 > $INSTANCE/events/scsi/scsi_dispatch_cmd_error/enable 2> /dev/null
    BEFORE=($(statistics)) ERRORS_BEFORE=$(scsi_errors)
}
count_end() {
    local after=($(statistics)) n=0 name
    for name in reads read_sectors writes written_sectors discards discarded_sectors flushes; do
        truth "disk_$name" $((after[n] - BEFORE[n]))
        n=$((n + 1))
    done
    truth scsi_errors $(($(scsi_errors) - ERRORS_BEFORE))
    truth issue_events "$(grep -c block_rq_issue: $INSTANCE/trace)"
    truth requeue_events "$(grep -c block_rq_requeue: $INSTANCE/trace)"
    truth refused_commands "$(grep -c scsi_dispatch_cmd_error: $INSTANCE/trace)"
    echo 0 > $INSTANCE/events/enable
}

load() {  # OPTION...: fio on the device; it counts failures and goes on
    fio --name="$SCENARIO" --filename="${FILE:-/dev/$DISK}" --ioengine=libaio --direct=1 --iodepth=8 \
        --bs=4k --rw=randread --randrepeat=1 --continue_on_error=all \
        --ignore_error=5:61,5:61 --output="/out/$SCENARIO.fio.json" --output-format=json "$@"
    echo "fio: $?"
}

# --- scenarios ------------------------------------------------------------------------------------

plain() {  # mixed sizes, reads and writes; nothing fails
    TRACER=blktrace
    scsi_disk
    trace load --rw=randrw --bsrange=512-64k --number_ios=300
}

medium() {  # sectors 4660 to 4669 cannot be read: SCSI completes such a read twice
    scsi_disk
    inject 2 0
    trace load --rw=read --iodepth=1 --offset=2304k --size=256k --number_ios=64
}

transport() {  # each fifth command ends in a transport error: SCSI tries again
    scsi_disk
    inject 16 5
    trace load --iodepth=1 --number_ios=100
    inject 0 0
}

hostbusy() {  # the host refuses each seventh command: the request goes back into the queue
    scsi_disk
    inject 0x8000 7
    trace load --number_ios=100
    inject 0 0
}

tsf() {  # "task set full" each third time that the queue of 4 is full
    scsi_disk ndelay=5000000
    echo 4 > "/sys/block/$DISK/device/queue_depth"
    inject 0x800 3
    trace load --iodepth=16 --number_ios=200
    inject 0 0
}

requeue() {  # null_blk limited to 1 MB/s: what comes too soon goes back into the queue
    null_disk size=64 memory_backed=1 mbps=1 irqmode=0
    trace load --rw=randrw --number_ios=200
}

badblocks() {  # null_blk with sectors that fail
    null_disk size=64 memory_backed=1
    echo "+4096-4159" > "$NULLB/$SCENARIO/badblocks"
    trace load --rw=read --bs=16k --iodepth=4 --offset=1m --size=2m
}

short() {  # a loop device whose file ends too soon: part of the read is done, the rest tried again
    modprobe loop
    mkfs.ext4 -q /dev/vda
    mkdir -p /mnt/short
    mount /dev/vda /mnt/short
    truncate -s 8M /mnt/short/file
    DISK=$(basename "$(losetup --find --show --direct-io=on /mnt/short/file)")
    quiet_queue
    truncate -s $((4 << 20 | 8 << 10)) /mnt/short/file
    trace load --rw=read --bs=16k --iodepth=1 --offset=3m --size=2m
    losetup -d "/dev/$DISK"
    umount /mnt/short
}

flush() {  # a flush after each eighth write; the kernel completes flushes twice
    scsi_disk
    trace load --rw=write --iodepth=1 --fsync=8 --number_ios=256 --size=16m
}

fua() {  # writes that have to be on the medium when they end (version 7 of Linux 7.3 lacks them)
    TRACER=$LATEST
    scsi_disk opts=0
    trace load --rw=write --ioengine=psync --iodepth=1 --sync=dsync --number_ios=100 --size=16m
}

pipe() {  # by blktrace, which hands out what it has of one CPU after the other: flushes come out of order
    TRACER=blktrace
    scsi_disk
    trace load --rw=write --iodepth=1 --fsync=1 --number_ios=100 --size=16m
}

multipath() {  # request-based device mapper over one disk
    local disk
    scsi_disk
    disk=$DISK
    modprobe dm_multipath
    modprobe dm_round_robin
    dmsetup create "$SCENARIO" --noudevrules --noudevsync --table \
        "0 $(blockdev --getsz "/dev/$disk") multipath 0 0 1 1 round-robin 0 1 1 /dev/$disk 100"
    DISK=$(basename "$(dmsetup info -c --noheadings -o blkdevname "$SCENARIO")")
    await test -b "/dev/$DISK"
    quiet_queue
    trace load --rw=randrw --fsync=16 --number_ios=200
    dmsetup remove "$SCENARIO"
}

zones() {  # zone operations by blkzone, each counted as it is asked for
    TRACER=$LATEST
    null_disk size=256 memory_backed=1 zoned=1 zone_size=4 zone_nr_conv=4 zone_max_open=8
    trace use_zones
}
use_zones() {
    local device=/dev/$DISK zone n operations=0
    for n in 4 5; do
        zone=$((n * 8192))
        for operation in open close finish reset; do
            blkzone $operation -o $zone -l 8192 $device && operations=$((operations + 1))
        done
    done
    load --rw=write --bs=64k --iodepth=1 --zonemode=zbd --offset=32m --size=16m --number_ios=100
    # A reset of the whole device is one command.
    blkzone reset $device && operations=$((operations + 1))
    truth zone_operations $operations
}

append() {  # btrfs appends file data to zones: the issue has the zone's start, the completion the place
    TRACER=$LATEST
    null_disk size=2048 memory_backed=1 zoned=1 zone_size=16
    mkfs.btrfs -q -O zoned -d single -m single "/dev/$DISK"
    mkdir -p /mnt/append
    mount -t btrfs "/dev/$DISK" /mnt/append
    trace append_files
    umount /mnt/append
}
append_files() {
    FILE=/mnt/append/file load --rw=write --bs=64k --ioengine=psync --iodepth=1 --size=8m
    sync
}

# --------------------------------------------------------------------------------------------------

for SCENARIO in "$@"; do
    : > "/out/$SCENARIO.truth"
    ("$SCENARIO") > "/out/$SCENARIO.log" 2>&1 || echo "scenarios.sh: $SCENARIO: $?" >&2
    dmesg -c > "/out/$SCENARIO.dmesg"
done
