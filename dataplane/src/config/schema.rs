//! Types that describe themselves.
//!
//! Every RPC parameter and every configuration key is declared once, with its help, by [`described!`](crate::described).
//! From that one declaration come the `serde` decoder, the refusal of unknown names (with the nearest valid one),
//! and the reference pages `docs/rpc.md` and `docs/configuration.md`, which tests compare with these types.

use serde_json::Value;

/// One key of a table, or one parameter of a method.
#[derive(Debug)]
pub struct Field {
    /// The name as it is written.
    pub name: &'static str,
    /// What it means, with units; Markdown, may span lines.
    pub help: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it must be given.
    pub required: bool,
}

/// The keys of a table or the parameters of a method.
#[derive(Debug)]
pub struct Schema {
    /// What the table is for.
    pub help: &'static str,
    /// In the order in which they are documented.
    pub fields: &'static [Field],
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Number,
    /// Bytes: a whole number, or a string such as `"64 MiB"`.
    Size,
    /// Text.
    Text,
    /// One of these words.
    Word(&'static [Word]),
    /// A list of what it points to.
    List(&'static Kind),
    /// A table with keys of its own.
    Table(&'static Schema),
    /// Any JSON.
    Any,
}

/// One word of a closed set.
#[derive(Debug)]
pub struct Word {
    /// As it is written.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
}

impl Kind {
    /// How the reference pages call it.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Kind::Boolean => "boolean".to_owned(),
            Kind::Number => "number".to_owned(),
            Kind::Size => "size".to_owned(),
            Kind::Text => "string".to_owned(),
            Kind::Word(words) => {
                words.iter().map(|word| format!("`{}`", word.name)).collect::<Vec<_>>().join(", ")
            }
            Kind::List(of) => format!("list of {}", of.label()),
            Kind::Table(_) => "table".to_owned(),
            Kind::Any => "any".to_owned(),
        }
    }

    /// The table inside, through lists.
    #[must_use]
    pub fn table(&self) -> Option<&'static Schema> {
        match self {
            Kind::Table(schema) => Some(schema),
            Kind::List(of) => of.table(),
            _ => None,
        }
    }
}

impl Schema {
    /// The field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The valid name most like `name`, when one is like it at all.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        nearest(name, self.fields.iter().map(|field| field.name))
    }
}

/// A type with a place in a [`Schema`].
pub trait Described {
    /// What it holds.
    const KIND: Kind;
    /// Whether a field of this type must be given.
    const REQUIRED: bool = true;
}

/// A type that is a whole table.
pub trait Table {
    /// Its keys.
    const SCHEMA: Schema;
}

impl Described for bool {
    const KIND: Kind = Kind::Boolean;
}

impl Described for String {
    const KIND: Kind = Kind::Text;
}

impl Described for uuid::Uuid {
    const KIND: Kind = Kind::Text;
}

impl Described for Value {
    const KIND: Kind = Kind::Any;
}

macro_rules! numbers {
    ($($number:ty),+) => { $(impl Described for $number { const KIND: Kind = Kind::Number; })+ };
}
numbers!(u8, u16, u32, u64, usize, i32);

impl<T: Described> Described for Option<T> {
    const KIND: Kind = T::KIND;
    const REQUIRED: bool = false;
}

impl<T: Described + 'static> Described for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);
}

/// How alike two names must be before one is offered for the other.
const LIKENESS_MIN: f64 = 0.6;

/// The candidate most like `name`, when one is like it at all.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(likeness, candidate)| *likeness >= LIKENESS_MIN || candidate.starts_with(name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// A name that is not in the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{path}`{}", .nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default())]
pub struct UnknownName {
    /// What it would have named: `parameter` or `key`.
    pub what: &'static str,
    /// Where it stands, with dots between levels.
    pub path: String,
    /// The valid name most like it.
    pub nearest: Option<&'static str>,
}

/// Refuses members of JSON objects that are not in the schema, at any depth.
///
/// # Errors
/// The first unknown name.
pub fn check_names(value: &Value, schema: &'static Schema) -> Result<(), UnknownName> {
    check_object(value, schema, "")
}

fn check_object(value: &Value, schema: &'static Schema, prefix: &str) -> Result<(), UnknownName> {
    let Value::Object(members) = value else { return Ok(()) };
    for (name, member) in members {
        let path = format!("{prefix}{name}");
        let Some(field) = schema.field(name) else {
            return Err(UnknownName { what: "parameter", path, nearest: schema.nearest(name) });
        };
        if let Some(table) = field.kind.table() {
            let prefix = format!("{path}.");
            match member {
                Value::Array(items) => {
                    items.iter().try_for_each(|item| check_object(item, table, &prefix))?;
                }
                other => check_object(other, table, &prefix)?,
            }
        }
    }
    Ok(())
}

/// Declares a table: a struct, its decoder and its schema.
///
/// Two forms: `name: Type` (required unless the type is an `Option`), and `name: Type = default` for tables
/// of which every key has a default.
#[macro_export]
macro_rules! described {
    ($(#[doc = $table_help:literal])+ $vis:vis struct $name:ident {
        $($(#[doc = $help:literal])+ $field:ident : $type:ty),* $(,)?
    }) => {
        $(#[doc = $table_help])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $vis struct $name { $($(#[doc = $help])+ $vis $field: $type,)* }
        $crate::described!(@schema $name [$($table_help)+] $([$field $type [$($help)+] <$type as $crate::config::schema::Described>::REQUIRED])*);
    };
    ($(#[doc = $table_help:literal])+ $vis:vis struct $name:ident {
        $($(#[doc = $help:literal])+ $field:ident : $type:ty = $default:expr),* $(,)?
    }) => {
        $(#[doc = $table_help])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        $vis struct $name { $($(#[doc = $help])+ $vis $field: $type,)* }
        impl Default for $name { fn default() -> Self { Self { $($field: $default,)* } } }
        $crate::described!(@schema $name [$($table_help)+] $([$field $type [$($help)+] false])*);
    };
    (@schema $name:ident [$($table_help:literal)+] $([$field:ident $type:ty [$($help:literal)+] $required:expr])*) => {
        impl $crate::config::schema::Table for $name {
            const SCHEMA: $crate::config::schema::Schema = $crate::config::schema::Schema {
                help: concat!($($table_help, "\n"),+),
                fields: &[$($crate::config::schema::Field {
                    name: stringify!($field),
                    help: concat!($($help, "\n"),+),
                    kind: <$type as $crate::config::schema::Described>::KIND,
                    required: $required,
                }),*],
            };
        }
        impl $crate::config::schema::Described for $name {
            const KIND: $crate::config::schema::Kind =
                $crate::config::schema::Kind::Table(&<$name as $crate::config::schema::Table>::SCHEMA);
        }
    };
}

/// Declares a closed set of words: an enum, its decoder and its schema.
#[macro_export]
macro_rules! described_words {
    ($(#[doc = $help:literal])+ $vis:vis enum $name:ident {
        $($(#[doc = $word_help:literal])+ $word:ident = $text:literal),+ $(,)?
    }) => {
        $(#[doc = $help])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $vis enum $name { $($(#[doc = $word_help])+ #[serde(rename = $text)] $word,)+ }
        impl $name {
            /// The word as it is written.
            #[allow(dead_code, reason = "not every set of words is written back")]
            #[must_use]
            $vis const fn as_str(self) -> &'static str { match self { $(Self::$word => $text,)+ } }
        }
        impl $crate::config::schema::Described for $name {
            const KIND: $crate::config::schema::Kind = $crate::config::schema::Kind::Word(&[
                $($crate::config::schema::Word { name: $text, help: concat!($($word_help, "\n"),+) },)+
            ]);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    described! {
        /// An inner table.
        struct Inner {
            /// A count.
            count: u32,
        }
    }

    described! {
        /// An outer table.
        struct Outer {
            /// Its name.
            name: String,
            /// Optional parts.
            parts: Option<Vec<Inner>>,
            /// An optional size.
            block_size: Option<u32>,
        }
    }

    #[test]
    fn a_name_close_to_a_valid_one_is_answered_with_it() {
        let value = serde_json::json!({"name": "x", "blok_size": 512});
        let error = check_names(&value, &Outer::SCHEMA).expect_err("unknown");
        assert_eq!(error.to_string(), "unknown parameter `blok_size`; did you mean `block_size`?");
    }

    #[test]
    fn a_name_unlike_any_other_is_refused_without_a_guess() {
        let value = serde_json::json!({"zzzz": 1});
        assert_eq!(check_names(&value, &Outer::SCHEMA).expect_err("unknown").nearest, None);
    }

    #[test]
    fn names_inside_lists_of_tables_are_checked_too() {
        let value = serde_json::json!({"name": "x", "parts": [{"count": 1}, {"cuont": 2}]});
        let error = check_names(&value, &Outer::SCHEMA).expect_err("unknown");
        assert_eq!((error.path.as_str(), error.nearest), ("parts.cuont", Some("count")));
    }

    #[test]
    fn required_follows_the_type() {
        let required: Vec<_> =
            Outer::SCHEMA.fields.iter().map(|field| (field.name, field.required)).collect();
        assert_eq!(required, [("name", true), ("parts", false), ("block_size", false)]);
    }
}
