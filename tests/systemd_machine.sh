#!/usr/bin/env bash
# A machine with systemd as its first process, in namespaces of its own: its root is this machine's, with all changes
# in memory. Runs /out/script there, then it is gone. Its python is in /opt, where ProtectHome does not hide it.
#   systemd_machine.sh WORK OUT REPOSITORY PYTHON_PREFIX PYTHON SITE_PACKAGES
# WORK: an empty directory; OUT: is /out in there, holds `script`. Anything left in cgroups is removed by the caller.
set -euo pipefail
work=$1 out=$2 repository=$3 prefix=$4 python=$5 site=$6
root=$work/root

mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,overlay,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/overlay" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty ptmx; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root"/dev/{shm,pts}
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s /proc/self/fd "$root/dev/fd"
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
  mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
  mkdir "$root"/sys/fs/cgroup/{unified,systemd}
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
  mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi

# no units but the one that runs the script, and what it installs
rm -rf "$root"/etc/systemd/system/* "$root"/usr/lib/systemd/system/*.wants "$root/etc/fstab"
rm -rf "$root/etc/covenantd" "$root/var/lib/covenantd"
cat > "$root/etc/systemd/system/script.target" <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=script.service
UNIT
cat > "$root/etc/systemd/system/script.service" <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=HOME=/root PATH=/opt/covenantd/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/bin/bash -c '/bin/bash -x /out/script > /out/log 2>&1; systemctl exit --force --force'
TimeoutStartSec=infinity
UNIT
mkdir -p "$root/out" "$root"/opt/{python,site,repository,covenantd/bin} "$root/etc/systemd/system/covenantd.service.d"
mount --bind "$out" "$root/out"
mount --bind "$prefix" "$root/opt/python"
mount --bind "$site" "$root/opt/site"
mount --bind "$repository" "$root/opt/repository"
for program in covenantd:cli covenantctl:ctl; do
  cat > "$root/opt/covenantd/bin/${program%:*}" <<PROGRAM
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/repository:/opt/site
exec /opt/python/bin/$python -m covenantd.${program#*:} "\$@"
PROGRAM
  chmod 755 "$root/opt/covenantd/bin/${program%:*}"
done
# there is no journal
printf '[Service]\nStandardOutput=append:/out/daemon.log\nStandardError=append:/out/daemon.log\n' \
  > "$root/etc/systemd/system/covenantd.service.d/log.conf"

mkdir "$root/before"
cd "$root"
pivot_root . before
umount -l /before
mount --make-rshared / # or a service's credentials would not be seen in its own mounts
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --system --unit=script.target
