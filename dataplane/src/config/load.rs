//! Reads the file: syntax, names and types, each refusal with file and line.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{Schema, Table, UnknownName};
use super::types::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{path}:{line}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key that does not exist.
    #[error("{path}:{line}: {key}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key and the nearest valid one.
        key: UnknownName,
    },
    /// Values that do not go together, or are out of range.
    #[error("{path}: {what}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The part of the configuration.
        what: String,
        /// What is wrong.
        message: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let malformed = |error: toml::de::Error| ConfigError::Malformed {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        };
        let table = DeTable::parse(text).map_err(malformed)?;
        check_table(table.get_ref(), const { &Config::SCHEMA }, "").map_err(|(offset, key)| {
            ConfigError::UnknownKey { path: path.to_owned(), line: line_of(text, offset), key }
        })?;
        toml::from_str(text).map_err(malformed)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn check_table(
    table: &DeTable<'_>,
    schema: &'static Schema,
    prefix: &str,
) -> Result<(), (usize, UnknownName)> {
    for (key, value) in table {
        let name: &str = key.get_ref();
        let path = format!("{prefix}{name}");
        let Some(field) = schema.field(name) else {
            let unknown = UnknownName { what: "key", path, nearest: schema.nearest(name) };
            return Err((key.span().start, unknown));
        };
        if let Some(inner) = field.kind.table() {
            tables(value).try_for_each(|table| check_table(table, inner, &format!("{path}.")))?;
        }
    }
    Ok(())
}

/// The table that a value is, or the tables of the list that it is.
fn tables<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> impl Iterator<Item = &'a DeTable<'i>> {
    let value = value.get_ref();
    let items = value.as_array().into_iter().flat_map(|items| items.iter());
    value.as_table().into_iter().chain(items.filter_map(|item| item.get_ref().as_table()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Config::parse(Path::new("c.toml"), text).expect_err("refused").to_string()
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        assert_eq!(Config::parse(Path::new("c.toml"), "").expect("accepted"), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_key() {
        let text = "[reactors]\ncores = \"0\"\nidle_after = 3\n";
        assert_eq!(
            refusal(text),
            "c.toml:3: unknown key `reactors.idle_after`; did you mean `idle_after_us`?"
        );
        let text =
            "[[subsystems]]\nnqn = \"nqn.2026-01.org.example:n\"\n[[subsystems.listeners]]\nadress = \"x\"\n";
        assert_eq!(
            refusal(text),
            "c.toml:4: unknown key `subsystems.listeners.adress`; did you mean `address`?"
        );
        assert_eq!(refusal("\n[devices]\n[gateway]"), "c.toml:3: unknown key `gateway`");
    }

    #[test]
    fn wrong_types_and_syntax_are_refused_with_their_line() {
        assert!(refusal("[log]\nlevel = \"LOUD\"\n").starts_with("c.toml:2: unknown variant `LOUD`"));
        assert!(refusal("[rpc]\nsocket = 5\n").starts_with("c.toml:2: "));
        let text = "[[subsystems]]\nnqn = \"nonsense\"\n";
        assert!(refusal(text).starts_with("c.toml:2: `nonsense`: "), "{}", refusal(text));
        assert!(refusal("[rpc\n").starts_with("c.toml:1: "));
        assert!(refusal("[[devices]]\nname = \"a\"\n").contains("missing field `kind`"));
    }

    #[test]
    fn every_value_may_be_given() {
        let text = r#"
            [reactors]
            cores = "0-1"
            mode = "polling"
            [metrics]
            address = "127.0.0.1:9464"
            [tcp]
            in_capsule_data = "16 KiB"
            [[devices]]
            name = "m"
            kind = "memory"
            size = "1 GiB"
            [[subsystems]]
            nqn = "nqn.2026-01.org.example:s"
            allow_any_host = true
            namespaces = [{ device = "m" }]
            listeners = [{ address = "[::1]:4420", ana_state = "optimized" }]
            [discovery]
            listeners = ["127.0.0.1:8009"]
        "#;
        let config = Config::parse(Path::new("c.toml"), text).expect("accepted");
        assert_eq!(config.tcp.expect("given").in_capsule_data.0, 16 << 10);
        assert_eq!(config.devices[0].size.expect("given").0, 1 << 30);
    }
}
