//! Tables and lists of fields for people: aligned, without frames that would need a wide terminal.

use std::io::Write;

use super::text::NodeName;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table under these headings; columns whose heading starts with `>` are numbers and align right.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints a table without trailing blanks.
pub(crate) fn print(out: &mut dyn Write, table: &Table) -> std::io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints `name  value` lines, the values aligned, under a heading.
pub(crate) fn fields(out: &mut dyn Write, heading: &str, rows: &[(&str, String)]) -> std::io::Result<()> {
    writeln!(out, "{heading}")?;
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        writeln!(out, "{}", format!("  {name:width$}  {value}").trim_end())?;
    }
    Ok(())
}

/// Nodes as `1 2 3`, none as `-`.
pub(crate) fn nodes(ids: &[u64], by_address: bool) -> String {
    if ids.is_empty() {
        return "-".to_owned();
    }
    ids.iter().map(|id| NodeName::new(*id, by_address).to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let mut rows = table(&["name", ">count", "note"]);
        rows.add_row(["a", "5", ""]);
        rows.add_row(["long", "12345", "x"]);
        let mut out = Vec::new();
        print(&mut out, &rows).expect("writes to memory");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "name  count  note\na         5\nlong  12345  x\n");
    }
}
