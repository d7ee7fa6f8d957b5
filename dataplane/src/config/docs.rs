//! The reference page of the configuration file, written from its types.

use std::fmt::Write as _;

use serde::Serialize;

use super::schema::{Field, Kind, Schema, Table};
use super::types::{Buffers, Config, Discovery, Log, Metrics, NvmeControllers, Rdma, Reactors, Rpc, Tcp};

/// What stands before the generated part.
const HEAD: &str = include_str!("reference.md");

/// The text of `docs/configuration.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for field in const { &Config::SCHEMA }.fields {
        let Some(schema) = field.kind.table() else { continue };
        describe(&mut page, field.name, field, schema);
    }
    page
}

fn describe(page: &mut String, path: &str, field: &Field, schema: &'static Schema) {
    let header =
        if matches!(field.kind, Kind::List(_)) { format!("[[{path}]]") } else { format!("[{path}]") };
    let _ = writeln!(page, "\n## `{header}`\n\n{}", one_line(schema.help));
    let _ = writeln!(page, "\n| key | type | default | meaning |\n|---|---|---|---|");
    let defaults = defaults(path);
    for key in schema.fields {
        let default = defaults.get(key.name).map(shown).unwrap_or_default();
        let default = if key.required { "required".to_owned() } else { default };
        let label = key.kind.label();
        let _ = writeln!(page, "| `{}` | {label} | {default} | {} |", key.name, one_line(key.help));
    }
    for key in schema.fields {
        if let Kind::Word(words) = key.kind {
            let _ = writeln!(page, "\n`{}`:\n", key.name);
            for word in words {
                let _ = writeln!(page, "- `{}`: {}", word.name, one_line(word.help));
            }
        }
        if let Some(inner) = key.kind.table() {
            describe(page, &format!("{path}.{}", key.name), key, inner);
        }
    }
}

fn one_line(help: &str) -> String {
    help.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        value => format!("`{value}`"),
    }
}

/// The defaults of a table that has them.
fn defaults(path: &str) -> serde_json::Map<String, serde_json::Value> {
    match path {
        "reactors" => members(&Reactors::default()),
        "buffers" => members(&Buffers::default()),
        "rpc" => members(&Rpc::default()),
        "metrics" => members(&Metrics::default()),
        "log" => members(&Log::default()),
        "tcp" => members(&Tcp::default()),
        "rdma" => members(&Rdma::default()),
        "nvme_controllers" => members(&NvmeControllers::default()),
        "discovery" => members(&Discovery::default()),
        _ => serde_json::Map::new(),
    }
}

fn members(table: &impl Serialize) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(table) {
        Ok(serde_json::Value::Object(members)) => members,
        _ => serde_json::Map::new(),
    }
}
