#!/bin/sh
# The first and only process of the emulated machine (emulated.sh): runs every program of /programs, prints what they print
# between two lines of its own, and switches the machine off.
mkdir -p /proc /sys /dev /tmp /var/tmp /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
for place in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o size=2g tmpfs $place; done
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
export HOME=/tmp UNIMEM_TEST_DIVISOR=10 UNIMEM_TEST_PATIENCE=10 PROPTEST_CASES=16
echo 0 >/proc/sys/kernel/printk
# This kernel begins with "always", where more than the budget may be resident (docs/reliability.md).
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
uname -srm
while read -r name arguments; do
    echo "=== begin $name"
    began=$(date +%s)
    # shellcheck disable=SC2086  # a list of words
    (cd "$(cat /directory)" && timeout -k 10 2400 "/programs/$name" $arguments </dev/null >/tmp/out 2>/tmp/err)
    status=$?
    cat /tmp/out
    sed 's/^/# /' /tmp/err | tail -n 60
    echo
    echo "=== end $name $status $(($(date +%s) - began))"
    rm -rf /tmp/* /var/tmp/* /dev/shm/*
done </list
echo "=== off"
poweroff -f
