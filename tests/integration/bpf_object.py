# SPDX-License-Identifier: Apache-2.0
"""How much of the stack compiled programs use, counted as the strictest kernels do before they load one.

    stack_needed("build/dev/bpf/outbound.bpf.o")        # {"weir_connect4": 480, ...}: bytes, on the deepest way of calls"""

import pathlib
import struct

STACK = 512  # bytes that a program may use
ROUNDED_TO = 32  # each function's; by newer kernels, which compile programs, to half of that
TEXT, SYMBOLS, RELOCATIONS, EXECUTABLE, FUNCTION = 1, 2, 9, 4, 2
WORD = 8  # an instruction
FRAME = 10  # the register that points to the stack's end
LOADS, STORES, LOAD_WORD, ADD, CALL = (1,), (2, 3), 0x18, 0x07, 0x85


class Object:
    def __init__(self, path):
        self.bytes = pathlib.Path(path).read_bytes()
        start, size, count, names = struct.unpack_from("=Q10xHHH", self.bytes, 40)
        self.sections = [struct.unpack_from("=IIQQQQIIQQ", self.bytes, start + i * size) for i in range(count)]
        [table] = [section for section in self.sections if section[1] == SYMBOLS]
        self.symbols = [struct.unpack_from("=IBBHQQ", self.bytes, at) for at in range(table[4], table[4] + table[5], 24)]
        self.names = self.sections[table[6]][4]
        self.code = {i for i, section in enumerate(self.sections) if section[1] == TEXT and section[2] & EXECUTABLE}
        self.functions = {}  # (section, first instruction): (name, how many)
        for name, info, _, section, value, length in self.symbols:
            if info & 15 == FUNCTION:
                self.functions[section, value // WORD] = self._text(name), length // WORD
        self.targets = {}  # (section, instruction): symbol
        for section in self.sections:
            if section[1] == RELOCATIONS and section[7] in self.code:
                for at in range(section[4], section[4] + section[5], 16):
                    offset, info = struct.unpack_from("=QQ", self.bytes, at)
                    self.targets[section[7], offset // WORD] = self.symbols[info >> 32]

    def _text(self, offset):
        start = self.names + offset
        return self.bytes[start : self.bytes.index(b"\0", start)].decode()

    def _called(self, section, number, code, source, value):
        """What the instruction calls, or gives others to call."""
        symbol = self.targets.get((section, number))
        if symbol:
            in_section = value // WORD if code == LOAD_WORD else value + 1
            key = symbol[3], symbol[4] // WORD + (0 if symbol[1] & 15 == FUNCTION else in_section)
        else:
            key = section, number + value + 1
        wanted = code == LOAD_WORD if symbol and code != CALL else code == CALL and source == 1
        return key if wanted and key in self.functions else None

    def _look(self, key):
        """The bytes of its own, and the functions that it calls."""
        section, first = key
        own, called = 1, set()
        for number in range(first, first + self.functions[key][1]):
            at = self.sections[section][4] + number * WORD
            code, registers, offset, value = struct.unpack_from("=BBhi", self.bytes, at)
            dest, source = registers & 15, registers >> 4
            if (code & 7 in LOADS and source == FRAME) or (code & 7 in STORES and dest == FRAME):
                own = max(own, -offset)
            if code == ADD and value < 0:
                own = max(own, -value if value >= -STACK else 1)
            called.add(self._called(section, number, code, source, value))
        return own, called - {None}

    def depth(self, key):
        own, called = self._look(key)
        return -(-own // ROUNDED_TO) * ROUNDED_TO + max(map(self.depth, called), default=0)


def stack_needed(path):
    found = Object(path)
    return {name: found.depth(key) for key, (name, _) in found.functions.items()}
