"""Reads callgrind's profiles: own cost by function and by source file, and who called whom how often.

The difference of two profiles of the same program that differ in the number of I/Os alone is what those I/Os cost.
"""
import collections
import re

COPY = re.compile(r"mem(cpy|move)")
ALLOCATION = re.compile(r"^_*(malloc|calloc|realloc|posix_memalign|aligned_alloc|memalign)(@|$)")
NAME = re.compile(r"\((\d+)\)(?: (.*))?")

# The part of the program that a source file belongs to, by the first pattern found in its path.
LAYERS = (
    ("fabrics", "/fabrics/src/"),
    ("transport", "/transport/src/"),
    ("device", "/dataplane/src/device/"),
    ("target", "/dataplane/src/"),
    ("reactors", "/reactors/src/"),
    ("nvme", "/nvme/src/"),
    ("load", "/benches/"),
    ("standard library", "/library/"),
)


class Profile:
    """Own instructions by function and by file, system calls, and calls by (caller, callee)."""

    def __init__(self, path):
        self.names = {}
        self.files = {}
        self.events = ["Ir"]
        self.own = collections.Counter()
        self.by_file = collections.Counter()
        self.calls = collections.Counter()
        self.system_calls = 0
        with open(path, encoding="utf-8", errors="replace") as lines:
            self.read(lines)

    @staticmethod
    def name(text, known):
        number, name = NAME.match(text).groups()
        if name is not None:
            # 'N marks depths of recursion.
            known[number] = name.split("'")[0]
        return known[number]

    def read(self, lines):
        function = callee = file = None
        is_inclusive = False
        for line in lines:
            if line.startswith("fn="):
                function = self.name(line[3:].strip(), self.names)
            elif line.startswith("cfn="):
                callee = self.name(line[4:].strip(), self.names)
            elif line.startswith(("fl=", "fi=", "fe=")):
                file = self.name(line[3:].strip(), self.files)
            elif line.startswith(("cfi=", "cfl=")):
                self.name(line[4:].strip(), self.files)
            elif line.startswith("calls="):
                self.calls[function, callee] += int(line[6:].split()[0])
                is_inclusive = True
            elif line.startswith("events:"):
                self.events = line[7:].split()
            elif line[:1] in "0123456789+-*" and line.strip():
                if not is_inclusive:
                    self.cost(function, file, dict(zip(self.events, map(int, line.split()[1:]))))
                is_inclusive = False

    def cost(self, function, file, counts):
        self.own[function] += counts.get("Ir", 0)
        self.by_file[file] += counts.get("Ir", 0)
        self.system_calls += counts.get("sysCount", 0)

    def subtract(self, other):
        """What this run did more than the other."""
        self.own.subtract(other.own)
        self.by_file.subtract(other.by_file)
        self.calls.subtract(other.calls)
        self.system_calls -= other.system_calls


def short(name):
    """A Rust path without its hash."""
    return re.sub(r"::h[0-9a-f]{16}$", "", name)


def layer_of(file):
    for layer, pattern in LAYERS:
        if pattern in (file or ""):
            return layer
    return "libraries"


def rank(counter):
    return sorted(counter.items(), key=lambda item: -item[1])


def per_io(few, many, ios, top):
    """The cost of one I/O from the paths of two profiles, the second with `ios` I/Os more."""
    profile = Profile(many)
    profile.subtract(Profile(few))
    share = lambda count: round(count / ios, 3)
    copies, layers = collections.Counter(), collections.Counter()
    for (caller, callee), count in profile.calls.items():
        if COPY.search(callee) and not COPY.search(caller):
            copies[short(caller)] += count
    for file, count in profile.by_file.items():
        layers[layer_of(file)] += count
    allocations = sum(count for (_, callee), count in profile.calls.items() if ALLOCATION.match(callee))
    result = {
        "instructions": share(sum(profile.own.values())),
        "instructions_copying": share(sum(count for name, count in profile.own.items() if COPY.search(name))),
        "copies": share(sum(copies.values())),
        "allocations": share(allocations),
        "layers": {name: share(count) for name, count in rank(layers) if share(count) >= 0.5},
        "functions": {short(name): share(count) for name, count in rank(profile.own)[:top]},
        "copies_by_caller": {name: share(count) for name, count in rank(copies)[:top] if share(count) >= 0.01},
    }
    if "sysCount" in profile.events:
        result["system_calls"] = share(profile.system_calls)
    return result
