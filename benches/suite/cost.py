"""scripts/bench cost: what one 4 KiB I/O costs in instructions, system calls, copies and allocations, layer by layer.

Each end of a connection is counted alone: the machine of the protocol without sockets, then the whole target and the whole
host over loopback sockets, where both run in one thread in lockstep, so that nothing polls in vain and counts repeat.
Callgrind counts; the difference of two runs is what their difference in I/Os costs, so that start-up cancels.

Fails when an I/O allocates, and when an instruction count is more than 10 % away from benches/baseline/cost.json.
--update writes that file anew. scripts/cost counts the same of the real daemon, with polling.
"""
import argparse
import json
import subprocess

import callgrind
import common

BASELINE = common.ROOT / "benches" / "baseline" / "cost.json"
TOLERANCE = 0.10
# Everything is warm after the shorter run.
FEW_IOS = 1024
# An allocation in a thousand I/Os would show.
MORE_IOS = 8192
# Less than one event in as many I/Os as this comes with the number of turns, not of I/Os.
ALLOCATIONS_MAX = 0.001
FUNCTIONS = 15

# By their whole names: of several patterns with wildcards callgrind follows one.
INSIDE = {"target": ["benches::loopback::Loopback::turn"],
          "host": ["benches::loopback::HostLane::send", "benches::loopback::HostLane::receive"]}

# name, program of benches/examples, its arguments before the number of I/Os, functions inside which to count
WORKLOADS = [
    *((f"{end} machine, {kind} 4 KiB, batch of 32", "machine", [end, kind, "32"], [])
      for end in ("target", "host") for kind in ("read", "write")),
    *((f"{end}, {kind} 4 KiB, depth {depth}{', digests' * bool(more)}", "lockstep", [kind, depth, *more], INSIDE[end])
      for end in ("target", "host")
      for depth, more in (("1", []), ("32", []), ("32", ["--digests"]))
      for kind in ("read", "write")),
]


def profile(valgrind, program, arguments, inside, ios, out):
    """Arguments come in the order of the programs: options last."""
    words = [word for word in arguments if not word.startswith("--")]
    options = [word for word in arguments if word.startswith("--")]
    toggles = [f"--toggle-collect={pattern}" for pattern in inside]
    common.output_of(valgrind, "-q", "--tool=callgrind", "--collect-systime=yes", f"--callgrind-out-file={out}", *toggles,
                     common.program(f"examples/{program}"), *words, ios, *options)


def measure(valgrind, folder, program, arguments, inside):
    for name, ios in (("few", FEW_IOS), ("many", FEW_IOS + MORE_IOS)):
        profile(valgrind, program, arguments, inside, ios, folder / name)
    result = callgrind.per_io(folder / "few", folder / "many", MORE_IOS, FUNCTIONS)
    if result["instructions"] < 1:
        raise common.Failed(f"nothing was counted inside {' and '.join(inside)}: are they functions of {program}?")
    return result


def show(results):
    layers = sorted({layer for result in results.values() for layer in result["layers"]},
                    key=lambda layer: -sum(result["layers"].get(layer, 0) for result in results.values()))
    rows = [["per I/O", "instructions", "copying", "copies", "allocations", "system calls", *layers]]
    for name, result in results.items():
        rows.append([name, f"{result['instructions']:.0f}", f"{result['instructions_copying']:.0f}",
                     f"{result['copies']:.2f}", f"{result['allocations']:.2f}", f"{result['system_calls']:.2f}",
                     *(f"{result['layers'].get(layer, 0):.0f}" for layer in layers)])
    print(common.table(rows))


def compiler():
    return common.output_of("rustc", "--version", cwd=common.ROOT).strip()


def changes(results, baseline):
    """What is worth a word about each instruction count: (sentence, whether it is a failure)."""
    for name, result in results.items():
        now, before = result["instructions"], baseline["instructions"].get(name)
        if before is None:
            yield f"{name}: {now:.0f} instructions, and the baseline does not know it", True
            continue
        change = now / before - 1
        yield f"{name}: {before:.0f} -> {now:.0f} instructions, {change:+.1%}", abs(change) > TOLERANCE


def allocating(results):
    return [f"{name}: {result['allocations']} allocations per I/O" for name, result in results.items()
            if result["allocations"] > ALLOCATIONS_MAX]


def update(results):
    BASELINE.parent.mkdir(exist_ok=True)
    counts = {name: result["instructions"] for name, result in results.items()}
    text = json.dumps({"compiler": compiler(), "instructions": counts}, indent=1)
    BASELINE.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {BASELINE.relative_to(common.ROOT)}")


def compare(results):
    """The list of failures."""
    if not BASELINE.exists():
        return [f"there is no {BASELINE.relative_to(common.ROOT)}; --update makes it"]
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    print()
    if baseline["compiler"] != compiler():
        print(f"The baseline is of {baseline['compiler']}, this is {compiler()}: code may differ for that alone.")
    failures = []
    for sentence, is_failure in changes(results, baseline):
        print(sentence)
        if is_failure:
            failures.append(sentence)
    return failures


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="make what is counted now the baseline")
    parser.add_argument("--only", default="", metavar="TEXT", help="only what has this text in its name")
    parser.add_argument("--json", metavar="FILE", help="write everything there, with the functions the instructions belong to")
    parser.add_argument("--no-build", action="store_true", help="count target/release/examples as they are")
    arguments = parser.parse_args()
    if arguments.update and arguments.only:
        parser.error("a baseline is of everything")
    if not arguments.no_build:
        build = ["cargo", "build", "--quiet", "--release", "-p", "pollux-benches", "--examples"]
        subprocess.run(build, check=True, cwd=common.ROOT)
    valgrind = common.output_of(common.ROOT / "scripts" / "callgrind").strip()
    folder, results = common.scratch(), {}
    for name, program, options, inside in WORKLOADS:
        if arguments.only in name:
            common.say(name)
            results[name] = measure(valgrind, folder, program, options, inside)
    if not results:
        parser.error(f"nothing is called {arguments.only}")
    show(results)
    common.save(arguments.json, compiler=compiler(), per_io=results)
    failures = allocating(results)
    if arguments.update:
        update(results)
    else:
        failures += compare(results)
    for failure in failures:
        common.say("FAILED:", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    common.run(main)
