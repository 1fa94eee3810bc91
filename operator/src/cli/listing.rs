//! Objects of one kind as a command lists them: those that were asked for by name, in the format that was asked for.

use serde::Serialize;
use vicino_crds::names;

use super::Answer;
use super::arguments::Global;
use super::output::{self, Format};

/// One object of the list; what `-o json` prints.
pub(super) trait Row: Serialize {
    /// Its kind.
    const KIND: &'static str;
    /// What JSON and YAML have the list under.
    const LIST: &'static str;

    /// Its name.
    fn name(&self) -> &str;

    /// The table of all of them.
    fn table(rows: &[Self], wide: bool, all_namespaces: bool) -> String
    where
        Self: Sized;
}

/// Those of these names, or all when none is given; exit code 1 when one is not there. `nothing` says what there is none of.
pub(super) fn answer<R: Row>(
    global: &Global,
    names: &[String],
    rows: Vec<R>,
    nothing: impl FnOnce() -> String,
) -> Answer {
    let is_meant = |row: &R| names.is_empty() || names.iter().any(|name| *name == row.name());
    let rows: Vec<_> = rows.into_iter().filter(is_meant).collect();
    let missing: Vec<_> = names.iter().filter(|name| rows.iter().all(|row| row.name() != **name)).collect();
    let mut notes: Vec<_> = missing.iter().map(|name| format!("there is no {} {name:?}", R::KIND)).collect();
    if rows.is_empty() && missing.is_empty() {
        notes.push(nothing());
    }
    let is_table = matches!(global.output, Format::Table | Format::Wide);
    let text = if rows.is_empty() && is_table {
        String::new()
    } else {
        show(&rows, global.output, global.all_namespaces)
    };
    Answer { text, notes, found: !missing.is_empty() }
}

/// The list in that format.
pub(super) fn show<R: Row>(rows: &[R], format: Format, all_namespaces: bool) -> String {
    match format {
        Format::Json => output::json(&serde_json::json!({ R::LIST: rows })),
        Format::Yaml => output::yaml(&serde_json::json!({ R::LIST: rows })),
        Format::Name => {
            let kind = R::KIND.to_lowercase();
            output::lines(rows.iter().map(|row| format!("{kind}.{}/{}", names::GROUP, row.name())))
        }
        Format::Table | Format::Wide => R::table(rows, format == Format::Wide, all_namespaces),
    }
}
