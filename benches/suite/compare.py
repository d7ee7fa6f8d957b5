"""scripts/bench compare REV [FILTER]: times of the hot pieces in the present tree and in REV, as ratios.

Builds the criterion benchmarks of both, REV's in a git worktree under build/compare, and runs them alternately, so that what
else the machine does disturbs both alike. FILTER is a regular expression for the names of benchmarks.

Prints the median of the rounds of each, present/REV (below 1: faster now), and the noise: the larger of the two spreads
between rounds, as a share. A ratio within the noise says nothing, and is marked "~".
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess

import common

HOME = common.BUILD / "compare"


def worktree(revision):
    """The folder of that revision's sources."""
    commit = common.output_of("git", "-C", common.ROOT, "rev-parse", "--verify", f"{revision}^{{commit}}").strip()
    folder = HOME / "tree"
    if folder.exists():
        common.output_of("git", "-C", folder, "checkout", "--quiet", "--force", "--detach", commit)
    else:
        HOME.mkdir(parents=True, exist_ok=True)
        common.output_of("git", "-C", common.ROOT, "worktree", "prune")
        common.output_of("git", "-C", common.ROOT, "worktree", "add", "--quiet", "--force", "--detach", folder, commit)
    return folder, commit[:12]


def build(folder, target):
    """The benchmark programs of a tree, by name."""
    common.say(f"building the benchmarks of {folder}")
    command = ["cargo", "bench", "--quiet", "-p", "pollux-benches", "--benches", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False,
                           env=dict(os.environ, CARGO_TARGET_DIR=str(target)))
    if built.returncode != 0:
        raise common.Failed(f"the benchmarks of {folder} do not build")
    messages = map(json.loads, built.stdout.splitlines())
    return {message["target"]["name"]: message["executable"] for message in messages
            if message.get("executable") and "bench" in message["target"]["kind"]}


def run(program, home, arguments):
    """Nanoseconds of each benchmark of one program, by its full name."""
    shutil.rmtree(home, ignore_errors=True)
    words = [program, "--bench", "--noplot", "--warm-up-time", "0.3", "--measurement-time", arguments.seconds,
             "--sample-size", "20", *([arguments.filter] if arguments.filter else [])]
    common.output_of(*words, env=dict(os.environ, CRITERION_HOME=str(home)))
    found = {}
    for path in pathlib.Path(home).glob("**/new/benchmark.json"):
        estimates = json.loads(path.with_name("estimates.json").read_text(encoding="utf-8"))
        name = json.loads(path.read_text(encoding="utf-8"))["full_id"]
        found[name] = estimates["median"]["point_estimate"]
    return found


def alternate(before, now, arguments):
    """Times of every round, by benchmark, of both sides."""
    times = ({}, {})
    for name in sorted(set(before) & set(now)):
        for number in range(arguments.rounds):
            common.say(f"{name}, round {number + 1} of {arguments.rounds}")
            for side, program in enumerate((before[name], now[name])):
                for benchmark, value in run(program, HOME / "criterion", arguments).items():
                    times[side].setdefault(benchmark, []).append(value)
    return times


def spread(values):
    return (max(values) - min(values)) / statistics.median(values)


def ratios(before, now):
    """(benchmark, ns before, ns now, ratio, noise) of what both sides have."""
    rows = []
    for name in sorted(set(before) & set(now)):
        old, new = statistics.median(before[name]), statistics.median(now[name])
        rows.append((name, old, new, new / old, max(spread(before[name]), spread(now[name]))))
    return rows


def show(rows, commit):
    cells = [["benchmark", f"{commit} ns", "present ns", "ratio", "noise"]]
    for name, old, new, ratio, noise in rows:
        is_within = abs(ratio - 1) <= noise
        cells.append([name, f"{old:.1f}", f"{new:.1f}", f"{ratio:.3f}{' ~' * is_within}", f"{noise:.1%}"])
    print(common.table(cells))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV", help="what git knows as a commit")
    parser.add_argument("filter", metavar="FILTER", nargs="?", default="")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each benchmark on each side (default 3)")
    parser.add_argument("--seconds", default="1", metavar="S", help="measuring time of a benchmark in a round (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write every round there")
    arguments = parser.parse_args()
    folder, commit = worktree(arguments.revision)
    before = build(folder, HOME / "target")
    now = build(common.ROOT, pathlib.Path(os.environ.get("CARGO_TARGET_DIR", common.ROOT / "target")))
    for name in sorted(set(before) ^ set(now)):
        common.say(f"{name}: only one of the two trees has it")
    times = alternate(before, now, arguments)
    rows = ratios(*times)
    if not rows:
        parser.error("no benchmark of both trees has such a name")
    show(rows, commit)
    common.save(arguments.json, compared_with=commit, nanoseconds={"before": times[0], "now": times[1]})
    return 0


if __name__ == "__main__":
    common.run(main)
