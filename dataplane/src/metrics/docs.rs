//! The reference page of the metrics, written from their list.

use std::fmt::Write as _;

use super::families::{FAMILIES, Shape, UnitOf};

/// What stands before the generated part.
const HEAD: &str = include_str!("reference.md");

/// The text of `docs/metrics.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for family in FAMILIES {
        let (suffix, unit) = match family.unit {
            UnitOf::Count => ("", "count"),
            UnitOf::Seconds => ("_seconds", "seconds"),
            UnitOf::Bytes => ("_bytes", "bytes"),
        };
        let (total, shape) = match family.shape {
            Shape::Counter => ("_total", "counter"),
            Shape::Gauge => ("", "gauge"),
            Shape::Histogram => ("", "histogram"),
        };
        let labels = family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (name, help) = (family.name, family.help);
        let _ = writeln!(page, "| `{name}{suffix}{total}` | {shape} | {unit} | {labels} | {help} |");
    }
    page
}
