//! The formats of answers; what is in them belongs to each command.

use clap::ValueEnum;
use serde::Serialize;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// For programs; fields are only ever added
    Json,
    /// The same as YAML
    Yaml,
    /// One `kind.group/name` per line
    Name,
}

/// One line each.
pub fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.fold(String::new(), |text, line| text + &line + "\n")
}

/// Any plain data as JSON.
pub fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("answers are plain data with string keys");
    text + "\n"
}

/// YAML documents, one after the other.
pub fn documents(documents: impl Iterator<Item = impl Serialize>) -> String {
    documents.fold(String::new(), |text, document| text + "---\n" + &yaml(&document))
}

/// Any plain data as YAML.
pub fn yaml(value: &impl Serialize) -> String {
    let mut text = serde_saphyr::to_string(value).expect("answers are plain data with string keys");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
