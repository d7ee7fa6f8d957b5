//! The reference page of the methods, written from the table.

use std::fmt::Write as _;

use super::table::{Method, SECTIONS};
use crate::config::schema::{Kind, Schema};

/// What stands before the generated part.
const HEAD: &str = include_str!("reference.md");

/// The text of `docs/rpc.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for (title, methods) in &SECTIONS {
        let _ = writeln!(page, "\n## {title}");
        methods.iter().for_each(|method| describe(&mut page, method));
    }
    page
}

fn describe(page: &mut String, method: &Method) {
    let _ = writeln!(page, "\n### `{}`\n\n{}", method.name, method.help);
    let _ = writeln!(page, "Result: {}.", method.result);
    if !method.params.fields.is_empty() {
        let _ = writeln!(page, "\n| parameter | type | | meaning |\n|---|---|---|---|");
        rows(page, method.params, "");
    }
}

fn rows(page: &mut String, schema: &Schema, prefix: &str) {
    for field in schema.fields {
        let required = if field.required { "required" } else { "" };
        let help = field.help.split_whitespace().collect::<Vec<_>>().join(" ");
        let (name, label) = (field.name, field.kind.label());
        let _ = writeln!(page, "| `{prefix}{name}` | {label} | {required} | {help} |");
        if let Some(table) = field.kind.table() {
            let list = if matches!(field.kind, Kind::List(_)) { "[]" } else { "" };
            rows(page, table, &format!("{prefix}{name}{list}."));
        }
    }
}
