"""scripts/bench report FILE…: one HTML page with plots, from the JSON lines that scripts/bench suite left.

The page needs nothing but itself: drawings are inline SVG, their figures are also in a table, colours follow the reader's dark or
light scheme. Below each drawing stand the command, revision, machine and date of what it shows.
"""
import collections
import html
import json
import math
import pathlib
import sys

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 40
TICKS = 5
# Colours that people with any colour vision tell apart, light and dark; markers tell them apart once more.
COLOURS = 8
MARKERS = ("circle", "square", "diamond", "triangle")
PERCENTILES = (("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999))
SIZE_ORDER = ("4k", "16k", "128k")

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5d646c; --line: #d9dde1; --page: #ffffff; --panel: #f6f7f8;
  --c0: #0060b0; --c1: #c2410c; --c2: #0f7b5f; --c3: #9a3b86; --c4: #8a6a00; --c5: #4a5560; --c6: #b3124a; --c7: #0b7d99; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --faint: #a0a8b0; --line: #3a4047; --page: #15181b;
  --panel: #1d2125; --c0: #6cb4ff; --c1: #ff9b62; --c2: #4fd1a8; --c3: #e58fd0; --c4: #e2c044; --c5: #b0bac4; --c6: #ff8fae;
  --c7: #63d3ef; } }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
p, figcaption { color: var(--faint); max-width: 80ch; } code { font: 12px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 20px; }
figure { margin: 0; padding: 14px; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; }
figure h3 { font-size: 15px; margin: 0 0 6px; } figcaption { font-size: 12px; margin-top: 8px; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font-size: 12px; }
.axis { stroke: var(--line); stroke-width: 1; fill: none; } .curve { fill: none; stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 13px; margin-top: 6px; }
.legend svg { width: 14px; height: 14px; display: inline-block; vertical-align: -2px; margin-right: 5px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { position: sticky; top: 0; background: var(--page); }
details { margin-top: 6px; } summary { cursor: pointer; }
"""

# (label, [(x, y, words on hovering)])
Series = collections.namedtuple("Series", "label points")
Axis = collections.namedtuple("Axis", "label position ticks")


def escape(text):
    return html.escape(str(text), quote=True)


def shown(value):
    """A number as people read it: three digits that matter."""
    if value == 0:
        return "0"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def ceiling(value):
    """The next round number."""
    if value <= 0:
        return 1.0
    magnitude = 10 ** math.floor(math.log10(value))
    return next(step * magnitude for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if value <= step * magnitude * 1.0001)


def linear(label, values):
    top = ceiling(max(values, default=1))
    ticks = [(top * tick / TICKS, shown(top * tick / TICKS)) for tick in range(TICKS + 1)]
    return Axis(label, lambda value: value / top, ticks)


def stepped(label, values):
    """Values that double, as far apart from each other."""
    values = sorted(set(values))
    low, high = math.log2(values[0]), math.log2(values[-1])
    position = lambda value: (math.log2(value) - low) / (high - low) if high > low else 0.5
    return Axis(label, position, [(value, str(value)) for value in values])


def decades(label, values):
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))
    span = math.log10(high / low) or 1
    ticks, value = [], low
    while value <= high * 1.0001:
        ticks.append((value, shown(value)))
        value *= 10
    return Axis(label, lambda value: math.log10(value / low) / span, ticks)


def nines(label):
    """Quantiles with each further nine as far apart from the one before."""
    depth = lambda quantile: -math.log10(1 - min(quantile, 0.99999))
    ticks = [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
    return Axis(label, lambda quantile: depth(quantile) / 4, ticks)


def across(axis, value):
    return round(LEFT + axis.position(value) * (WIDTH - LEFT - RIGHT), 1)


def upwards(axis, value):
    return round(HEIGHT - BOTTOM - axis.position(value) * (HEIGHT - TOP - BOTTOM), 1)


def marker(kind, x, y, size=3.5):
    if kind == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{size}"/>'
    corners = {"square": ((-1, -1), (1, -1), (1, 1), (-1, 1)), "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
               "triangle": ((0, -1.3), (1.2, 1), (-1.2, 1))}[kind]
    points = " ".join(f"{round(x + dx * size, 1)},{round(y + dy * size, 1)}" for dx, dy in corners)
    return f'<polygon points="{points}"/>'


def frame(x_axis, y_axis):
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, text in y_axis.ticks:
        y = upwards(y_axis, value)
        parts.append(f'<path class="axis" d="M{LEFT} {y}H{right}"/>'
                     f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{escape(text)}</text>')
    for value, text in x_axis.ticks:
        x = across(x_axis, value)
        parts.append(f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_axis.label)}</text>')
    return "".join(parts)


def style_of(number):
    return f"var(--c{number % COLOURS})", MARKERS[number % len(MARKERS)]


def curve(series, number, x_axis, y_axis):
    colour, kind = style_of(number)
    places = [(across(x_axis, x), upwards(y_axis, y), words) for x, y, words in series.points]
    path = "M" + "L".join(f"{x} {y}" for x, y, _ in places)
    points = "".join(f"<g><title>{escape(words)}</title>{marker(kind, x, y)}</g>" for x, y, words in places)
    return f'<path class="curve" style="stroke: {colour}" d="{path}"/><g class="points" style="fill: {colour}">{points}</g>'


def svg(label, content):
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{content}</svg>'


def legend(labels):
    items = []
    for number, label in enumerate(labels):
        colour, kind = style_of(number)
        items.append(f'<span><svg viewBox="0 0 14 14" aria-hidden="true"><g style="fill: {colour}">{marker(kind, 7, 7, 4)}</g>'
                     f"</svg>{escape(label)}</span>")
    return f'<div class="legend">{"".join(items)}</div>'


def lines(title, series, x_axis, y_axis):
    content = frame(x_axis, y_axis) + "".join(curve(one, number, x_axis, y_axis) for number, one in enumerate(series))
    return svg(title, content) + legend([one.label for one in series])


def bars(title, groups, labels, unit):
    """Groups of bars side by side: [(group, [value, …])], one value for each label."""
    y_axis = linear("", [value for _, values in groups for value in values])
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    thick = min(34, room * 0.8 / len(labels))
    content = frame(Axis("", lambda _: 0, []), y_axis)
    for place, (group, values) in enumerate(groups):
        middle = LEFT + room * (place + 0.5)
        content += f'<text x="{round(middle, 1)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(group)}</text>'
        for number, value in enumerate(values):
            x, y = middle + thick * (number - len(values) / 2), upwards(y_axis, value)
            content += (f'<rect x="{round(x, 1)}" y="{y}" width="{round(thick - 2, 1)}" '
                        f'height="{round(HEIGHT - BOTTOM - y, 1)}" style="fill: {style_of(number)[0]}">'
                        f"<title>{escape(f'{group}, {labels[number]}: {shown(value)} {unit}')}</title></rect>")
    return svg(title, content) + legend(labels)


def few(values):
    """All different values, in order of appearance."""
    return list(dict.fromkeys(values))


def caption(records):
    """Where the figures of a drawing come from."""
    machines = few(f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, Linux {m['kernel']}"
                   for m in (record["machine"] for record in records))
    dates = sorted(few(record["date"] for record in records))
    period = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    commands = "<br>".join(f"<code>{escape(record['command'])}</code>" for record in records)
    return (f"<figcaption>Revision {escape(', '.join(few(record['revision'] for record in records)))} · "
            f"{escape('; '.join(machines))} · {escape(period)}"
            f"<details><summary>{len(records)} runs: commands</summary>{commands}</details></figcaption>")


def figure(title, drawing, records):
    return f"<figure><h3>{escape(title)}</h3>{drawing}{caption(records)}</figure>"


def section(title, words, figures):
    figures = [one for one in figures if one]
    if not figures:
        return ""
    return f'<h2>{escape(title)}</h2><p>{escape(words)}</p><div class="figures">{"".join(figures)}</div>'


def who(record):
    return f"{record['device']}, {record['transport']}" + (", digests" if record["digests"] else "")


def grouped(records, key):
    groups = collections.OrderedDict()
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def iops_against(records, axis, title):
    """IOPS of each device against depth or connections. None when nothing was measured at two points."""
    groups = {label: found for label, found in grouped(records, who).items() if len(found) > 1}
    if not groups:
        return None
    used = [record for found in groups.values() for record in found]
    words = lambda record: f"{record['name']}: {shown(record['iops'])} IOPS, p99 {shown(record['latency_us']['p99'])} us"
    series = [Series(label, [(record[axis], record["iops"], words(record)) for record in
                             sorted(found, key=lambda record: record[axis])]) for label, found in groups.items()]
    names = {"depth": "I/Os in flight per connection", "connections": "connections"}
    drawing = lines(title, series, stepped(names[axis], [record[axis] for record in used]),
                    linear("IOPS", [record["iops"] for record in used]))
    return figure(title, drawing, used)


def latency(records, title):
    """Latency at each percentile, upside down: the share of I/Os that were as fast."""
    if not records:
        return None
    label = lambda record: f"{who(record)}"
    series = [Series(label(record), [(max(record["latency_us"][name], 0.1), quantile,
                                      f"{record['name']}, {name}: {shown(record['latency_us'][name])} us")
                                     for name, quantile in PERCENTILES]) for record in records]
    values = [x for one in series for x, _, _ in one.points]
    return figure(title, lines(title, series, decades("latency, us", values), nines("share of I/Os")), records)


def processor(records, title):
    if not records:
        return None
    place = lambda record: record["device"] if record["transport"] == "tcp" else f"{record['device']} {record['transport']}"
    groups = [(place(record), [record["cpu_us_per_io"]["target"], record["cpu_us_per_io"]["client"]]) for record in records]
    return figure(title, bars(title, groups, ["target", "client"], "us"), records)


def by_kind(records, keep, draw, title):
    """One drawing for each workload and size among what `keep` keeps."""
    kept = [record for record in records if keep(record)]
    kinds = grouped(kept, lambda record: (record["workload"], record["size"]))
    order = sorted(kinds, key=lambda kind: (SIZE_ORDER.index(kind[1]), kind[0] != "read", kind[0]))
    return [draw(kinds[kind], title.format(workload=kind[0].capitalize(), size=kind[1])) for kind in order]


def sections(records):
    one = lambda record: record["connections"] == 1
    yield section("IOPS against depth", "One connection. More in flight is more in each batch, and more to wait for.",
                  by_kind(records, one, lambda found, title: iops_against(found, "depth", title), "{workload}, {size}"))
    yield section("Scaling with connections", "I/Os in flight are per connection; cores stay the same.",
                  by_kind(records, lambda record: record["depth"] == 32,
                          lambda found, title: iops_against(found, "connections", title), "{workload}, {size}, depth 32"))
    for depth in (1, 32):
        at = lambda record, depth=depth: one(record) and record["depth"] == depth and record["size"] == "4k"
        yield section(f"Latency at depth {depth}", "Share of the I/Os that took no longer; each nine is as far as the one before.",
                      by_kind(records, at, latency, "{workload}, {size}, depth " + str(depth)))
    yield section("Processor time per I/O", "Of the whole process, its polling while it waits included.",
                  by_kind(records, lambda record: one(record) and record["depth"] == 32 and not record["digests"],
                          processor, "{workload}, {size}, depth 32, us"))


def row(record):
    latency_us, cpu = record["latency_us"], record["cpu_us_per_io"]
    cells = [record["name"], f"{record['iops']:,.0f}", f"{record['bytes_per_second'] / 2**20:,.0f}",
             *(f"{latency_us[name]:.1f}" for name in ("mean", "p50", "p90", "p99", "p999", "p9999", "max")),
             f"{cpu['target']:.2f}", f"{cpu['client']:.2f}", record["errors"]]
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def numbers(records):
    heads = ("run", "IOPS", "MiB/s", "mean us", "p50", "p90", "p99", "p99.9", "p99.99", "max", "target us/IO",
             "client us/IO", "errors")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<h2>All figures</h2><div class="scroll"><table><tr>{head}</tr>{"".join(map(row, records))}</table></div>'


def absent(records):
    reasons = grouped(records, lambda record: (record["device"], record["transport"], record["skipped"]))
    if not reasons:
        return ""
    items = "".join(f"<li>{escape(device)} over {escape(transport)}, {len(found)} runs: {escape(reason)}</li>"
                    for (device, transport, reason), found in reasons.items())
    return f"<h2>Not measured</h2><ul>{items}</ul>"


def render(records):
    """The page, from decoded JSON lines."""
    measured = [record for record in records if "skipped" not in record]
    skipped = [record for record in records if "skipped" in record]
    body = "".join(sections(measured)) + (numbers(measured) if measured else "") + absent(skipped)
    revisions = ", ".join(few(record["revision"] for record in records))
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Pollux, measured</title><style>{STYLE}</style></head><body><h1>Pollux, measured</h1>"
            f"<p>Revision {escape(revisions)}. Target and client on the same machine, over loopback: the client and the kernel's "
            f"sockets are in every figure.</p>{body}</body></html>\n")


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if sys.argv[1:] else 2
    records = []
    for path in sys.argv[1:]:
        records += [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line]
    print(render(records), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
