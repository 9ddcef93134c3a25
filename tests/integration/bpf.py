# SPDX-License-Identifier: Apache-2.0
"""Programs of somebody else's in the kernel, loaded by the system call itself: each lets everything pass, or refuses it.

    with attached(network, "cil_theirs") as (program, folder):      # its number; the control group that it is attached to
        ...
    with attached(network, "theirs", hook="sk_lookup", pod=pod): ...
    with array("weir_plan", 64, 4) as number: ...                   # a map of 4 values of 64 bytes
    with counting_runs(): ...                                       # the kernel counts how often programs run
"""

import contextlib
import ctypes
import os
import struct

from netns import CONTROL_GROUPS

MAP_CREATE, PROG_LOAD, GET_INFO, LINK_CREATE, ENABLE_STATS = 0, 5, 15, 28, 32
CGROUP_SKB, SOCK_ADDR, SK_LOOKUP, SOCK_OPS = 8, 18, 30, 13  # enum bpf_prog_type
# Name: (type of the program, enum bpf_attach_type).
HOOKS = {
    "connect4": (SOCK_ADDR, 10),
    "connect6": (SOCK_ADDR, 11),
    "sendmsg4": (SOCK_ADDR, 14),
    "sock_ops": (SOCK_OPS, 3),
    "egress": (CGROUP_SKB, 1),
    "sk_lookup": (SK_LOOKUP, 36),
}


def bpf(command, attributes):
    """The system call, with attributes as bytes."""
    buffer = ctypes.create_string_buffer(attributes.ljust(144, b"\0"), 144)
    result = ctypes.CDLL(None, use_errno=True).syscall(321, command, buffer, 144)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def load(name, hook, verdict):
    """The descriptor of a new program that returns the verdict."""
    kind, attach_type = HOOKS[hook]
    words = struct.pack("=BBHiQ", 0xB7, 0, 0, verdict, 0x95)  # r0 = verdict; exit
    code, licence = ctypes.create_string_buffer(words, len(words)), ctypes.create_string_buffer(b"GPL")
    addresses = (ctypes.addressof(code), ctypes.addressof(licence))
    head = struct.pack("=IIQQIIQII", kind, len(words) // 8, *addresses, 0, 0, 0, 0, 0)
    return bpf(PROG_LOAD, head + struct.pack("=16sII", name.encode(), 0, attach_type))


def number_of(fd):
    """Of a program or map."""
    info = ctypes.create_string_buffer(256)
    bpf(GET_INFO, struct.pack("=IIQ", fd, 256, ctypes.addressof(info)))
    return struct.unpack_from("=I", info, 4)[0]


@contextlib.contextmanager
def attached(network, name, hook="connect4", pod=None, group=None, verdict=1):
    """A program, attached to a new control group (or to `group`), or to the pod's network namespace."""
    folder = group or CONTROL_GROUPS / f"{network.prefix}theirs"
    if not pod:
        folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        if pod:
            with pod.enter():
                target = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        else:
            target = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, target)
        program = load(name, hook, verdict)
        stack.callback(os.close, program)
        link = bpf(LINK_CREATE, struct.pack("=IIII", program, target, HOOKS[hook][1], 0))
        stack.callback(os.close, link)
        yield number_of(program), folder


@contextlib.contextmanager
def array(name, size, count):
    fd = bpf(MAP_CREATE, struct.pack("=IIIIIII16s", 2, 4, size, count, 0, 0, 0, name.encode()))
    try:
        yield number_of(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def counting_runs():
    switch = bpf(ENABLE_STATS, struct.pack("=I", 0))
    try:
        yield
    finally:
        os.close(switch)
