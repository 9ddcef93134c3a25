#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks of the tree itself, as ctest runs them: check.py NAME. Each prints what is wrong and ends with status 1."""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = ["bpf", "codecs", "dns", "intercept", "userspace"]
TOP = {"bpf", "intercept", "dns", "codecs", "userspace", "scripts", "tests", "vagrant", "docs"}
TOP_FILES = {"CMakeLists.txt", "CMakePresets.json", "LICENSE", "README.md"}

# What each folder may include, beside itself: dependencies point one way.
INCLUDES = {
    "base": [],
    "codecs": ["base"],
    "intercept": ["base"],
    "run": ["base"],
    "dns": ["base", "run"],
    "net": ["base", "run"],
    "mesh": ["base", "run", "codecs", "dns"],
    "exchange": ["base", "run", "net", "codecs", "mesh", "intercept"],
    "control": ["base", "run", "codecs", "mesh", "dns", "intercept"],
    "admin": ["base", "run", "net", "codecs", "mesh", "dns", "exchange"],
    "upgrade": ["base", "run", "net", "codecs", "mesh", "exchange"],
    "proxy": ["base", "run", "net", "codecs", "mesh", "dns", "intercept", "exchange", "control", "admin", "upgrade"],
    "inject": ["base", "run", "net", "codecs", "intercept"],
    "cli": ["base", "dns", "control", "admin", "intercept", "inject"],
}
# Pure code: no I/O, no clock, no log, no globals that change.
PURE = ["codecs/*.[ch]", "dns/message.[ch]", "dns/answer.[ch]", "dns/names.[ch]", "dns/table.[ch]", "dns/text.[ch]"]
IMPURE_HEADERS = re.compile(
    r'#include [<"](base/clock|base/log|run/|net/|time|unistd|fcntl|poll|pthread|sys/(socket|epoll|time|stat|mman|ioctl))'
)

COMPLEXITY_MAX, LINES_MAX, MEDIAN_MAX = 15, 150, 15
KERNEL_LINES_MAX = 60  # of what runs in the kernel
KERNEL_HEADER_MAX = 400  # programs find the kernel's types when they are loaded: no list of all of them is in the tree
# Functions that may be longer or more branched, each with the reason.
EXCEPTIONS = {}

# In the form that clang-format gives them; other folders follow.
FORMATTED = [
    *(f"userspace/{name}" for name in ("base", "run", "control", "admin", "cli", "proxy", "inject")),
    *(f"tests/unit/{name}" for name in ("base", "run", "control", "admin", "cli", "proxy", "inject")),
]


def tracked():
    """The files of the tree: what git knows and what is new; without git, all but build folders."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode == 0:
        names = [pathlib.Path(name) for name in done.stdout.split("\0") if name]
        return sorted(name for name in names if (ROOT / name).is_file())
    skipped = {"build", ".git", "__pycache__", "node_modules"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return sorted(name for name in found if not skipped & set(name.parts))


def sources(folders, suffixes=(".c", ".h")):
    return [name for name in tracked() if name.suffix in suffixes and any(name.is_relative_to(f) for f in folders)]


# --- the checks: each yields what is wrong ---------------------------------------------------------------------------


def includes():
    for name in sources(["codecs", "dns", "intercept", "userspace"]):
        module = name.parts[1] if name.parts[0] == "userspace" else name.parts[0]
        if module not in INCLUDES:
            yield f"{name}: the folder {module} is not in the table of directions"
            continue
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include "(?:\.\./)*(?:userspace/)?([^"/]+)/', line)
            if match and match[1] in INCLUDES and match[1] not in [module, *INCLUDES[module]]:
                yield f"{name}:{number}: {module} must not depend on {match[1]}"
            if re.match(r'\s*#\s*include "(\.|[^"/]+")', line):
                yield f"{name}:{number}: includes are written from the root: {line.strip()}"


def pure():
    variable = re.compile(r"^(static )?(__thread )?(?!typedef|extern|enum\b|_Static_assert)[a-z_][\w ]*[ *]\w+(\[.*\])?( = .*|;)$")
    for pattern in PURE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT)
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if IMPURE_HEADERS.match(line):
                    yield f"{name}:{number}: this code does no I/O and reads no clock: {line}"
                if variable.match(line) and "const" not in line.split("=")[0] and not re.match(r"struct \w+;", line):
                    yield f"{name}:{number}: this code keeps no globals: {line}"


def size():
    files = [str(name) for name in sources(CODE, (".c",)) + sources(["bpf"], (".h",))]
    done = subprocess.run(["pmccabe", *files], cwd=ROOT, capture_output=True, text=True, check=True)
    lengths, met = [], set()
    for line in done.stdout.splitlines():
        complexity, _, _, _, lines, place = line.split("\t")
        name = place.split(": ")[1]
        lengths.append(int(lines))
        most = KERNEL_LINES_MAX if place.startswith("bpf/") else LINES_MAX
        if int(complexity) <= COMPLEXITY_MAX and int(lines) <= most:
            continue
        met.add(name)
        if name not in EXCEPTIONS:
            yield f"{place}: complexity {complexity} (at most {COMPLEXITY_MAX}), {lines} lines (at most {most})"
    for name in set(EXCEPTIONS) - met:
        yield f"the exception for {name} is not needed any more"
    for name in sources(["bpf"], (".h",)):
        count = (ROOT / name).read_text().count("\n")
        if count > KERNEL_HEADER_MAX:
            yield f"{name}: {count} lines (at most {KERNEL_HEADER_MAX})"
    median = sorted(lengths)[len(lengths) // 2]
    if median > MEDIAN_MAX:
        yield f"the median length of a function is {median} lines (at most {MEDIAN_MAX})"


def format():
    files = [str(name) for name in sources(FORMATTED)]
    for start in range(0, len(files), 64):
        words = ["clang-format-14", "--dry-run", *files[start : start + 64]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        yield from sorted({line.split(": ")[0] for line in done.stderr.splitlines() if "-Wclang-format" in line})
        if done.returncode:
            yield done.stderr.strip()


def folders():
    for name in tracked():
        top = name.parts[0]
        if top.startswith("."):
            continue
        if len(name.parts) == 1 and top not in TOP_FILES:
            yield f"{name}: no other files on the top level"
        if len(name.parts) > 1 and top not in TOP:
            yield f"{name}: no other folders on the top level"


def spdx():
    code = {".c", ".h", ".py", ".sh", ".cmake", ".md", ".yaml", ".yml", ".js", ".mjs", ".vtc"}
    for name in tracked():
        text = (ROOT / name).read_bytes()[:400]
        wanted = name.suffix in code or name.name == "CMakeLists.txt" or text.startswith(b"#!")
        if not wanted or "corpus" in name.parts or str(name) in ("README.md", "docs/configuration.md"):
            continue
        licence = b"GPL-2.0-only OR BSD-2-Clause" if name.parts[0] == "bpf" else b"Apache-2.0"
        head = b"\n".join(text.split(b"\n")[:3])
        if b"SPDX-License-Identifier: " + licence not in head:
            yield f"{name}: the first lines have no 'SPDX-License-Identifier: {licence.decode()}'"


def _anchors(path):
    """What GitHub makes of the headings."""
    found = set()
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            title = re.sub(r"[`*]|\[|\]\([^)]*\)", "", line.lstrip("# ")).lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


def _functions():
    """The names of all functions that are defined in the tree."""
    text = "\n".join((ROOT / name).read_text() for name in sources(CODE))
    return set(re.findall(r"^[a-z][^;={}]*?\b(\w+)\([^;{]*\)\s*\n\{", text, re.MULTILINE))


def links():
    """Links of the pages within the tree, and what the text names in backquotes: paths, functions of the internals."""
    functions = _functions()
    for name in tracked():
        if name.suffix != ".md":
            continue
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / name.parent / path).resolve() if path else ROOT / name
            if not file.exists():
                yield f"{name}: {target} is not there"
            elif anchor and anchor not in _anchors(file):
                yield f"{name}: {path} has no heading #{anchor}"
        for target in re.findall(r"`((?:userspace|codecs|dns|intercept|scripts|tests|docs|bpf)/[\w./-]+\.\w+)`", text):
            if not (ROOT / target).exists():
                yield f"{name}: `{target}` is not there"
        for target in re.findall(r"`(\w+)\(\)`", text) if name.is_relative_to("docs/internals") else ():
            if target not in functions:
                yield f"{name}: there is no function {target}()"


def machine_paths():
    """Nothing that belongs to one machine stands in the tree."""
    for name in tracked():
        if name.suffix in (".c", ".h", ".py", ".md", ".txt", ".rst", ".json") or name.parts[0] == "scripts":
            for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), 1):
                if re.search(r"(?<![\w.])/(work|home/\w+|root)/", line):
                    yield f"{name}:{number}: a path of one machine: {line.strip()}"


CHECKS = {
    "includes": includes,
    "pure": pure,
    "size": size,
    "format": format,
    "folders": folders,
    "spdx": spdx,
    "links": links,
    "paths": machine_paths,
}


# --- the checks check ------------------------------------------------------------------------------------------------

# Trees with one thing wrong each: a check that finds nothing there is no check.
BROKEN = {
    "includes": {"userspace/base/x.c": '#include "net/sock.h"\n'},
    "pure": {"codecs/x.c": "#include <time.h>\n"},
    "size": {
        "codecs/x.c": "int f(int a)\n{\n" + "\tif (a)\n\t\ta++;\n" * 16 + "\treturn a;\n}\n",
        "bpf/x.bpf.h": "int g(int a)\n{\n" + "\ta++;\n" * 58 + "\treturn a;\n}\n" + "int h(void)\n{\n\treturn 0;\n}\n\n" * 3,
        "bpf/vmlinux.h": "typedef int t;\n" * 500,
    },
    "format": {"userspace/base/x.c": "int  f( int a );\n"},
    "folders": {"other/x.txt": ""},
    "spdx": {"codecs/x.c": "int x;\n"},
    "links": {"docs/x.md": "[there](nowhere.md)\n", "docs/internals/y.md": "`nobody()`\n"},
    "paths": {"codecs/x.c": '#define P "' + "/home" + '/somebody/x"\n'},
}


def itself():
    global ROOT
    for name, files in BROKEN.items():
        with tempfile.TemporaryDirectory() as folder:
            style = (ROOT / ".clang-format").read_text()
            before, ROOT = ROOT, pathlib.Path(folder)
            (ROOT / ".clang-format").write_text(style)
            for path, text in files.items():
                (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
                (ROOT / path).write_text(text)
            found = list(CHECKS[name]())
            ROOT = before
            if len(found) < len(files):
                yield f"the check '{name}' does not find what is wrong"
    lines = "codecs/x.c", "static unsigned counter;\n"
    with tempfile.TemporaryDirectory() as folder:
        before, ROOT = ROOT, pathlib.Path(folder)
        (ROOT / "codecs").mkdir()
        (ROOT / lines[0]).write_text(lines[1])
        if not list(pure()):
            yield "the check 'pure' does not find a global"
        ROOT = before


def main():
    checks = {**CHECKS, "itself": itself}
    if len(sys.argv) != 2 or sys.argv[1] not in checks:
        sys.exit(f"usage: check.py {' | '.join(checks)}")
    wrong = list(checks[sys.argv[1]]())
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
