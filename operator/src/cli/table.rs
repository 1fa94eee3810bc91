//! Columns as kubectl prints them; knows no kinds.

/// Spaces between columns.
const GAP: usize = 3;

/// A header and rows as aligned text. Every row has as many cells as the header; an empty cell is shown as `-`.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count().max(1));
        }
    }
    let mut text = String::new();
    line(&mut text, &widths, header.iter().copied());
    for row in rows {
        line(&mut text, &widths, row.iter().map(String::as_str));
    }
    text
}

fn line<'a>(text: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let start = text.len();
    for (width, cell) in widths.iter().zip(cells) {
        let cell = if cell.is_empty() { "-" } else { cell };
        text.push_str(cell);
        let padding = width + GAP - cell.chars().count();
        text.extend(std::iter::repeat_n(' ', padding));
    }
    text.truncate(start + text[start..].trim_end().len());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let rows = [["web", "", "3/3"], ["quotes-of-the-day", "HTTP", ""]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        expect![[r"
            NAME                PROTOCOL   ENDPOINTS
            web                 -          3/3
            quotes-of-the-day   HTTP       -
        "]]
        .assert_eq(&table(&["NAME", "PROTOCOL", "ENDPOINTS"], &rows));
    }
}
