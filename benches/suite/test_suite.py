"""Tests of the tools behind scripts/bench, on fixed input: python3 -m unittest discover benches/suite."""
import html.parser
import pathlib
import tempfile
import unittest

import callgrind
import common
import compare
import cost
import peers
import report
import suite

MACHINE = {"processor": "A <fast> one", "cores": 2, "memory_gib": 24.0, "kernel": "6.1"}
VOID = {"meta", "br"}


def record(device="memory", workload="read", size="4k", depth=32, connections=1, digests=False, iops=100_000.0):
    run = suite.Run(device, "tcp", workload, size, depth, connections, digests)
    side = {"operations": 1, "iops": iops, "bytes_per_second": iops * 4096}
    return {"name": suite.name_of(run), **run._asdict(), "revision": "abc123", "machine": MACHINE, "date": "2026-01-02T03:04Z",
            "command": f"pollux perf --depth {depth} '<&>'", "seconds": 1.0, "iops": iops, "bytes_per_second": iops * 4096,
            "latency_us": {"min": 5, "mean": 9, "p50": 8, "p90": 10, "p99": 20, "p999": 50, "p9999": 90, "max": 200},
            "read": side, "write": side, "errors": 0, "cpu_us_per_io": {"target": 1.5, "client": 2.5}}


class Page(html.parser.HTMLParser):
    """Checks that elements nest, and gathers what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.counts, self.captions, self.texts = [], [], {}, [], []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figcaption":
            self.captions.append("")

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)
        if "figcaption" in self.open:
            self.captions[-1] += data


class Resumed(unittest.TestCase):
    def test_a_suite_goes_on_with_what_its_revision_lacks(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "runs.jsonl"
            done, missing, other = (suite.Run("memory", "tcp", "read", "4k", depth, 1, False) for depth in (1, 4, 16))
            journal = suite.Journal(path)
            journal.add(done, iops=1)
            journal.add(missing, skipped="not there")
            journal.keep({**journal.records[0], "name": suite.name_of(other), "revision": "another"})
            resumed = suite.Journal(path, resume=True)
            self.assertEqual([resumed.lacks(run) for run in (done, missing, other)], [False, True, True])
            self.assertEqual(path.read_text(encoding="utf-8").count("\n"), 1)
            self.assertTrue(suite.Journal(path).lacks(done))


class Report(unittest.TestCase):
    records = [record(depth=depth, iops=1000.0 * depth) for depth in (1, 32, 128)]
    records += [record(device="file", depth=depth, iops=500.0 * depth) for depth in (1, 32)]
    records += [record(connections=4, iops=300_000.0)]
    skipped = {**suite.Run("replicated", "tcp", "read", "4k", 1, 1, False)._asdict(), "name": "replicated-tcp-read-4k-d1-c1",
               "revision": "abc123", "machine": MACHINE, "date": "2026-01-02T03:04Z", "skipped": "not there: no such method"}

    def page(self):
        return Page(report.render(self.records + [self.skipped]))

    def test_every_figure_says_command_revision_machine_and_date(self):
        captions = self.page().captions
        self.assertEqual(5, len(captions))  # depth, connections, latency at 1 and 32, processor
        for words in captions:
            for wanted in ("pollux perf --depth", "'<&>'", "abc123", "A <fast> one", "2026-01-02T03:04Z"):
                self.assertIn(wanted, words)

    def test_the_page_asks_nothing_of_the_network_and_runs_no_script(self):
        page = self.page()
        self.assertNotIn("script", page.counts)
        self.assertNotIn("link", page.counts)
        self.assertEqual([], [name for name, _ in page.attributes if name in ("src", "href", "xlink:href")])
        self.assertNotIn("url(", report.STYLE)

    def test_there_are_colours_for_dark_and_for_light(self):
        self.assertIn("prefers-color-scheme: dark", report.STYLE)
        light, dark = report.STYLE.split("@media")
        for number in range(report.COLOURS):
            self.assertIn(f"--c{number}:", light)
            self.assertIn(f"--c{number}:", dark)

    def test_every_run_is_a_row_and_every_point_says_what_it_is(self):
        page = self.page()
        self.assertEqual(1 + len(self.records), page.counts["tr"])
        self.assertIn("memory-tcp-read-4k-d128-c1: 128k IOPS, p99 20 us", page.texts)

    def test_what_was_not_measured_is_listed_with_the_reason(self):
        self.assertIn("replicated over tcp, 1 runs: not there: no such method", self.page().texts)

    def test_more_iops_are_drawn_higher_and_more_depth_further_right(self):
        x, y = report.stepped("", [1, 32, 128]), report.linear("", [1000, 128_000])
        self.assertEqual(report.LEFT, report.across(x, 1))
        self.assertEqual(report.WIDTH - report.RIGHT, report.across(x, 128))
        self.assertLess(report.upwards(y, 128_000), report.upwards(y, 1000))
        self.assertEqual(report.HEIGHT - report.BOTTOM, report.upwards(y, 0))

    def test_one_point_alone_is_no_curve(self):
        self.assertIsNone(report.iops_against([record()], "depth", "t"))

    def test_numbers_have_three_digits(self):
        self.assertEqual(["0", "1.23", "1.23k", "123k", "1.5M"], [report.shown(v) for v in (0, 1.23, 1234, 123_400, 1_500_000)])


class Matrix(unittest.TestCase):
    def test_every_axis_is_in_the_quick_matrix(self):
        quick = [run for run in suite.matrix() if suite.is_quick(run) and run.transport == "tcp"]
        for axis, values in (("device", suite.DEVICES), ("workload", suite.WORKLOADS), ("size", suite.SIZES),
                             ("depth", suite.DEPTHS), ("connections", suite.CONNECTIONS), ("digests", (False, True))):
            self.assertEqual(set(values), {getattr(run, axis) for run in quick}, axis)
        self.assertLess(len(quick), 70)

    def test_names_tell_all_runs_apart(self):
        names = [suite.name_of(run) for run in suite.matrix()]
        self.assertEqual(len(names), len(set(names)))
        self.assertIn("store-tcp-write-128k-d8-c2-dgst".replace("d8", "d16"), names)


FEW = """events: Ir sysCount sysTime
fl=(1) /x/fabrics/src/a.rs
fn=(1) fabrics::run
10 100 1 5
fi=(2) /x/transport/src/b.rs
+3 50
fe=(1)
* 7
cfi=(3) /lib/memcpy.S
cfn=(2) __memcpy_avx
calls=2 40
12 30
fl=(3)
fn=(2)
40 30
"""


class Callgrind(unittest.TestCase):
    def per_io(self, many):
        with tempfile.TemporaryDirectory() as folder:
            paths = [pathlib.Path(folder) / name for name in ("few", "many")]
            for path, text in zip(paths, (FEW, many)):
                path.write_text(text, encoding="utf-8")
            return callgrind.per_io(*paths, 10, 5)

    def test_the_difference_of_two_profiles_is_shared_among_the_ios(self):
        many = FEW.replace("10 100 1 5", "10 400 6 9").replace("calls=2 40", "calls=22 40").replace("40 30\n", "40 230\n")
        found = self.per_io(many)
        self.assertEqual(50.0, found["instructions"])
        self.assertEqual({"fabrics": 30.0, "libraries": 20.0}, found["layers"])
        self.assertEqual((2.0, 20.0, 0.5, 0.0), (found["copies"], found["instructions_copying"], found["system_calls"],
                                                 found["allocations"]))

    def test_allocations_are_seen(self):
        many = FEW + "fn=(1)\ncfn=(9) malloc\ncalls=10 1\n1 100\n"
        found = self.per_io(many)
        self.assertEqual(1.0, found["allocations"])
        self.assertEqual(["x: 1.0 allocations per I/O"], cost.allocating({"x": found}))


class Baseline(unittest.TestCase):
    def test_more_and_fewer_instructions_both_fail_beyond_a_tenth(self):
        results = {name: {"instructions": now} for name, now in (("same", 105), ("more", 111), ("fewer", 89), ("new", 1))}
        baseline = {"instructions": {"same": 100, "more": 100, "fewer": 100}}
        failed = [sentence.split(":")[0] for sentence, is_failure in cost.changes(results, baseline) if is_failure]
        self.assertEqual(["more", "fewer", "new"], failed)


class Compare(unittest.TestCase):
    def test_ratios_are_of_medians_and_noise_is_the_larger_spread(self):
        rows = compare.ratios({"a": [10.0, 11.0, 30.0], "gone": [1.0]}, {"a": [5.0, 5.5, 5.5], "new": [2.0]})
        self.assertEqual([("a", 11.0, 5.5, 0.5)], [row[:4] for row in rows])
        self.assertAlmostEqual(20 / 11, rows[0][4])


class Peers(unittest.TestCase):
    def test_what_differs_is_said_of_everyone(self):
        self.assertEqual({*peers.PEERS, "nvmet, in UML", "pollux, in UML"}, set(peers.NOTES))

    def test_the_median_of_rounds_stands_and_what_a_client_does_not_tell_stays_unknown(self):
        runs = [{"peer": "a", "workload": "w", "iops": iops, "p50_us": 1.0, "p99_us": None} for iops in (3.0, 1.0, 2.0)]
        self.assertEqual({("a", "w"): {"iops": 2.0, "p50_us": 1.0, "p99_us": None}}, peers.medians(runs))

    def test_one_who_cannot_be_had_does_not_keep_the_others_from_running(self):
        def fail():
            raise common.Failed("no such package")
        skipped = {}
        peers.attempt("a", skipped, fail)
        self.assertEqual({"a": "no such package"}, skipped)


if __name__ == "__main__":
    unittest.main()
