# SPDX-License-Identifier: Apache-2.0
"""The Debian of the integration tests: bare roots, made by debootstrap from this machine's own package sources, and weir's
image, which buildah makes from one of them as a user would, both stages of the Containerfile.

    python3 tests/integration/debian.py [roots] [image]     makes what is missing or out of date; without words, both

scripts/test runs that while it compiles; the fixtures of conftest.py run it for what is not there. What is made lies in
build/debian and is taken again until the packages, their sources, or (of the image) weir's sources change. Whoever else
wants the same waits. All of it runs in namespaces of its own, whose processes end with the caller's, however that ends.

    root("base")     as an image of Debian is: what is essential, and apt with this machine's sources
    root("bare")     a fresh machine: systemd and dbus; its apt has a folder of packages, so it needs no network
    root("ready")    and from that folder what weir loads, so that install.sh has nothing to fetch; curl, nft
    image()          an archive for `podman load`; weir:test
"""

import fcntl
import functools
import hashlib
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "debian"
PAGE = ROOT / "docs" / "kubernetes.md"
# What the image is made of, of all that is in a checkout.
SOURCES = """.dockerignore CMakeLists.txt CMakePresets.json bpf codecs dns intercept userspace scripts/container/Containerfile
	scripts/container/root scripts/deps scripts/install.d""".split()

MACHINE = ["systemd", "systemd-sysv", "dbus"]
TOOLS = ["curl", "nftables", "libasan8", "libubsan1"]  # the last two: what sanitized builds load
AT_HAND = ["systemd-resolved"]  # in the folder, for tests to install
PACKAGES = "opt/packages"

ALONE = "setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc".split()


def run(*words, **options):
    subprocess.run(list(map(str, words)), check=True, stdin=subprocess.DEVNULL, **options)


def output(*words):
    return subprocess.run(list(map(str, words)), check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout


# --- this machine's apt ----------------------------------------------------------------------------------------------


def release():
    return re.search(r"^VERSION_CODENAME=(\w+)", pathlib.Path("/etc/os-release").read_text(), re.MULTILINE)[1]


def package_sources():
    """Debian's own, as lines of a sources.list. What apt says itself, in whichever form they are written."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    if not output(*words):
        run("apt-get", "update", "-qq", "-o", "DPkg::Lock::Timeout=300")
    suites = {release() + more for more in ("", "-updates", "-security")}
    found = sorted({line for line in output(*words).splitlines() if line.split()[1:] in [[suite, "main"] for suite in suites]})
    assert found, "apt has no source of Debian's packages"
    return "".join(f"deb {line}\n" for line in found)


def fetching():
    """How apt fetches here: proxies and the like, as lines of an apt.conf."""
    ours = re.compile(r"Acquire::(?!IndexTargets|Changelogs|CompressionTypes|cdrom)\S+ \"[^\"]")
    return "".join(line + "\n" for line in output("apt-config", "dump").splitlines() if ours.match(line))


def proxies():
    """The same, as far as wget can be told, by which debootstrap fetches."""
    found = re.findall(r"^Acquire::(https?)::Proxy \"(.+)\";", output("apt-config", "dump"), re.MULTILINE | re.IGNORECASE)
    return {f"{scheme.lower()}_proxy": url for scheme, url in found}


def ready_packages():
    """Those that install.sh would fetch, by its table; and tools."""
    table = (ROOT / "scripts" / "install.sh").read_text().partition("package_of() {")[2].partition("}")[0]
    return sorted({*re.findall(r"\) echo ([\w.+-]+)", table), *TOOLS})


# --- roots -----------------------------------------------------------------------------------------------------------


def make_base(folder, sources):
    """From the release's own source, as debootstrap takes one alone, and then upgraded from all."""
    root = folder / "base"
    first = next(line.split()[1] for line in sources.splitlines() if line.split()[2] == release())
    words = ["--variant=minbase", "--force-check-gpg", release(), root, first]
    run("debootstrap", *words, env={**os.environ, **proxies()})
    (root / "etc/apt/sources.list").write_text(sources)
    (root / "etc/apt/apt.conf.d/fetching").write_text(fetching())
    if "https:" in sources:
        # As this machine trusts them.
        certificates = root / "etc/ssl/certs"
        certificates.mkdir(parents=True, exist_ok=True)
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", certificates)
    apt(root, "update")
    apt(root, "dist-upgrade")
    apt(root, "clean")


def apt(root, *words):
    command = ["apt-get", "-qq", "--yes", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", *words]
    run("chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", *command, stdout=subprocess.DEVNULL)


def make_bare(folder):
    root = folder / "bare"
    run("cp", "-a", folder / "base", root)
    run("mount", "-t", "proc", "proc", root / "proc")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    apt(root, "update")
    apt(root, "install", *MACHINE)
    policy.unlink()
    run("umount", root / "proc")
    apt(root, "clean")
    apt(root, "install", "--download-only", *ready_packages(), *AT_HAND)
    # From here on, its sources are that folder.
    packages = root / PACKAGES
    (root / "var/cache/apt/archives").rename(packages)
    (packages / "Packages").write_text(output("env", "-C", packages, "dpkg-scanpackages", "."))
    shutil.rmtree(root / "var/lib/apt/lists")
    for path in (root / "etc/apt/sources.list.d").iterdir():
        path.unlink()
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:/{PACKAGES} ./\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/resolv.conf").write_text("nameserver 10.77.0.1\n")


def make_ready(folder):
    root = folder / "ready"
    run("cp", "-a", folder / "bare", root)
    apt(root, "update")
    apt(root, "install", *ready_packages())
    apt(root, "clean")


def make_roots(folder, sources):
    make_base(folder, sources)
    make_bare(folder)
    make_ready(folder)


# --- the image -------------------------------------------------------------------------------------------------------


def told():
    """The words of the page that make the image; the tag among them."""
    [line] = re.findall(r"^    buildah build (.*)$", PAGE.read_text(), re.MULTILINE)
    words = line.split()
    return words, words[words.index("-t") + 1]


def make_image(folder, base):
    """By the words of docs/kubernetes.md, and where the base is. Without a cgroup or network of its own: `chroot`."""
    page, tag = told()
    work = folder / "work"
    store = ["--root", work / "store", "--runroot", work / "run", "--storage-driver", "vfs"]
    run("tar", "-C", base, "-cf", folder / "base.tar", ".")
    run("podman", *store, "import", "-q", folder / "base.tar", "base:test")
    words = ["--isolation", "chroot", "--network", "host", "--pull-never", "--build-arg", "BASE=localhost/base:test"]
    run("buildah", *store, "build", *words, *page, cwd=ROOT)
    run("buildah", *store, "push", "-q", tag, f"oci-archive:{folder}/image.tar:weir:test")
    (folder / "base.tar").unlink()
    shutil.rmtree(work)


# --- what is there already -------------------------------------------------------------------------------------------


def digest(*things):
    """Of texts, and of what is in files and folders."""
    found = hashlib.sha256()
    for thing in things:
        paths = [thing] if isinstance(thing, str) or thing.is_file() else sorted(p for p in thing.rglob("*") if p.is_file())
        for path in paths:
            found.update(path.encode() if isinstance(path, str) else bytes(path) + path.read_bytes())
    return found.hexdigest()[:16]


def keep(name, key, make):
    """The folder build/debian/NAME-KEY, made if it is not there, in place of those with other keys."""
    HOME.mkdir(parents=True, exist_ok=True)
    folder, made = HOME / f"{name}-{key}", HOME / f"{name}.new"
    with open(HOME / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for old in HOME.glob(f"{name}[-.]*/"):
                shutil.rmtree(old)
            made.mkdir()
            make(made)
            made.rename(folder)
    return folder


def roots():
    sources = package_sources()
    steps = map(inspect.getsource, (make_base, make_bare, make_ready))
    key = digest(sources, fetching(), " ".join([*MACHINE, *ready_packages(), *AT_HAND]), *steps)
    return keep("roots", key, lambda folder: make_roots(folder, sources))


def built_image():
    key = digest(package_sources(), " ".join(told()[0]), *(ROOT / name for name in SOURCES))
    return keep("image", key, lambda folder: make_image(folder, roots() / "base"))


@functools.cache
def _ask(name):
    done = subprocess.run([sys.executable, __file__, name], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return pathlib.Path(done.stdout.splitlines()[-1])


def root(name):
    return _ask("roots") / name


def image():
    return _ask("image") / "image.tar"


def main(words):
    if words[:1] != ["--alone"]:
        os.execvp(ALONE[0], [*ALONE, sys.executable, __file__, "--alone", *(words or ["roots", "image"])])
    for word in words[1:]:
        print({"roots": roots, "image": built_image}[word](), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
