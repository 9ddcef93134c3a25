# SPDX-License-Identifier: Apache-2.0
"""Machines for integration tests: a whole Debian, booted by systemd, in a pod's network namespace.

A machine's root is an overlay over one of debian.py's: a Debian that has systemd and little else, on which nothing was ever
done. What is changed there stays there. It runs in namespaces of its own (processes, mounts, host name, IPC, cgroups), so
it has its own users, units, services and file tree, and can be rebooted.

    def test_something(network):
        machine = Machine(network.pod("web"), share=[ROOT])    # folders that are seen at the same place, changes private
        machine = Machine(network.pod("vm"), over="bare")      # weir's libraries are not there yet, but apt-get has them
        machine = Machine(network.pod("desk"), over="/")       # this machine's own root, with all that is installed here
        machine.boot()
        before = machine.snapshot()
        machine.run(["systemctl", "start", "something"])
        machine.reboot()

Machine
    .root                  its root folder as this process can reach it (pathlib.Path)
    .mount(folder, ...)    mounts something there, before the first boot
    .boot() .reboot() .off() .cut()    cut: as by a loss of power
    .run(argv, ...)        runs in the machine to the end; like Pod.run
                           With WEIR_ACCELERATION (see mesh.py) its proxy is accelerated, by a drop-in of its unit
    .snapshot()            {path: description} of every file that differs from the root below, for comparing
"""

import hashlib
import os
import pathlib
import re
import stat
import subprocess
import textwrap

import debian
from mesh import ROOT, acceleration, check_acceleration
from netns import Daemon, remove_cgroups, wait_until

# Where version 2 of cgroups is: beside version 1, or alone.
CGROUPS = [path for path in map(pathlib.Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()]

# The overlay's upper folder is in memory: it cannot lie within the lower one. $1: the mount point; $2: the root below; the
# rest: shared folders.
HOLD = r"""
set -e
base=$1 over=$2; shift 2
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=$over,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"
# As on a machine that runs nothing but what it came with; and nothing that only hardware wants.
rm -rf etc/rc?.d/* etc/systemd/system/*.wants usr/sbin/policy-rc.d var/lib/man-db/auto-update
for unit in getty.target systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
	systemd-remount-fs.service systemd-logind.service systemd-update-utmp.service systemd-update-utmp-runlevel.service timers.target \
	systemd-random-seed.service systemd-hwdb-update.service systemd-journal-catalog-update.service ldconfig.service \
	systemd-update-done.service systemd-sysctl.service systemd-modules-load.service systemd-journal-flush.service \
	systemd-machine-id-commit.service systemd-tmpfiles-clean.timer dev-hugepages.mount sys-kernel-debug.mount \
	sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount; do
	ln -sfT /dev/null "etc/systemd/system/$unit"
done
: >etc/fstab
echo 0123456789abcdef0123456789abcdef >etc/machine-id
rm -rf var/log/journal var/lib/weir etc/weir
mkdir -p old
for folder; do
	mkdir -p "$base/shared/$folder/upper" "$base/shared/$folder/work" "./$folder"
	mount -t overlay overlay -o "lowerdir=$folder,upperdir=$base/shared/$folder/upper,workdir=$base/shared/$folder/work" "./$folder"
done
echo held
exec sleep infinity
"""

BOOT = r"""
set -e
cd "$1"
mount --rbind . .
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for node in null zero full random urandom tty; do
	touch dev/$node
	mount --bind /dev/$node dev/$node
done
ln -s pts/ptmx dev/ptmx
touch dev/console
pivot_root . old
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=multi-user.target
"""
# Seconds. Machines have much to do, and tests run beside each other: it is only reached when something is wrong.
PATIENCE = 60.0

# What tools write on their own account: logs, caches, and the copies that the user database and dpkg keep of the state before.
NOISE = {"var/log", "var/cache", "var/lib/systemd", "var/lib/dpkg/status-old", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend"}
NOISE |= {f"etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")} | {"etc/.pwd.lock"}


def is_noise(path):
    """Of a path within the root. Services that run have folders of their own below /var/tmp."""
    return str(path) in NOISE or path.name.startswith("systemd-private-")


def describe(path):
    """Kind, mode, owner and content of a file; None if it is not there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    content = ""
    if stat.S_ISREG(found.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif stat.S_ISLNK(found.st_mode):
        content = os.readlink(path)
    return stat.filemode(found.st_mode), found.st_uid, found.st_gid, content


def eventually(check):
    return wait_until(check, PATIENCE)


class Machine:
    def __init__(self, pod, share=(), over="ready"):
        self.pod = pod
        self.over = pathlib.Path("/") if over == "/" else debian.root(over)
        self.base = pod.network.folder / f"machine-{pod.name}"
        self.base.mkdir()
        self.cgroup = CGROUPS[0] / pod.netns
        self._system = None
        self._holder = pod.start(["bash", "-c", HOLD, "hold", self.base, self.over, *share], ready=lambda: "held" in self._holder_output())
        self.root = pathlib.Path(f"/proc/{self._holder.pid}/root{self.base}/root")

    def _holder_output(self):
        return self.pod.network.daemons[-1].output()

    def mount(self, folder, *words):
        """Mounts something over a folder of the root, before it is booted."""
        words = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "mount", *words, self.base / "root" / folder]
        subprocess.run(list(map(str, words)), check=True)

    def _accelerate(self):
        """The drop-in of docs/vm.md; and the option, as the configuration is to stay what was installed."""
        folder = self.root / "etc/systemd/system/weir-proxy.service.d"
        folder.mkdir(parents=True, exist_ok=True)
        section = (ROOT / "docs/vm.md").read_text().partition("\n## What there is now\n")[2].partition("\n## ")[0]
        [lines] = re.findall(r"(?:^    .*\n)*^    SystemCallFilter=.*\n", section, re.MULTILINE)
        proxy = "env PATH=/usr/local/bin:/usr/bin:/opt/weir/bin weir-proxy --config /etc/weir/weir.yaml --set acceleration=auto"
        (folder / "acceleration.conf").write_text(f"{textwrap.dedent(lines)}ExecStart=\nExecStart=/usr/bin/{proxy}\n")

    def _check_acceleration(self):
        if self._system.alive():
            check_acceleration(self.run(["journalctl", "--unit", "weir-proxy", "--output", "cat"]).stdout)

    def boot(self):
        if acceleration() and not self._system:
            self._accelerate()
            self.pod.network.at_end.append(self._check_acceleration)
        self.cgroup.mkdir(exist_ok=True)
        argv = ["bash", "-c", 'echo $$ >"$1"; shift; exec "$@"', "boot", self.cgroup / "cgroup.procs"]
        argv += ["ip", "netns", "exec", self.pod.netns, "nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        argv += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        argv += ["bash", "-c", BOOT, "boot", self.base / "root"]
        log = self.pod.network.folder / f"{self.pod.name}-boot.log"
        with open(log, "ab") as file:
            process = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self._system = Daemon(process, ["systemd"], log, self.pod.netns)
        self.pod.network.daemons.append(self._system)
        self._system.wait_ready(self._answers, PATIENCE)
        eventually(lambda: self.run(["systemctl", "is-system-running", "--wait"], check=False).stdout == "running\n")

    def _init(self):
        children = pathlib.Path(f"/proc/{self._system.pid}/task/{self._system.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _answers(self):
        """systemd answers"""
        top = pathlib.Path("/proc", str(self._init()), "root")
        return (top / "run/systemd/private").exists() and not (top / "old/etc").exists()

    def off(self):
        """As by the button: services are stopped in their order."""
        self.run(["systemctl", "--no-block", "poweroff"], check=False)
        self._system.wait(PATIENCE)
        remove_cgroups(self.pod.netns)

    def cut(self):
        """As by a loss of power."""
        os.kill(self._init(), 9)
        self._system.wait()
        remove_cgroups(self.pod.netns)

    def reboot(self):
        self.off()
        self.boot()

    def snapshot(self):
        upper, found = self.root.parent / "upper", {}
        for folder, names, files in os.walk(upper):
            names[:] = [name for name in names if not is_noise((pathlib.Path(folder) / name).relative_to(upper))]
            for name in names + files:
                path = (pathlib.Path(folder) / name).relative_to(upper)
                here = describe(self.root / path)
                if not is_noise(path) and here != describe(self.over / path):
                    found[f"/{path}"] = here
        return found

    def run(self, argv, check=True, timeout=2.0 * PATIENCE, env=None, input=None):
        words = ["nsenter", "--target", str(self._init()), "--all", "--", *map(str, argv)]
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **(env or {})}
        done = subprocess.run(
            words, input=input or "", capture_output=True, text=True, errors="replace", timeout=timeout, env=variables, cwd="/"
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} in {self.pod.name}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done
