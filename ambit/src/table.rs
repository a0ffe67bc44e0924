//! Columns, padded with spaces.

/// Lays out rows under a header: every column as wide as its widest cell, `gap` spaces between columns, none at
/// the end of a line.
pub(crate) fn render<const N: usize>(
    header: [&str; N],
    rows: &[[String; N]],
    gap: usize,
) -> String {
    let mut widths = header.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, widest) in cells.into_iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', widest - width(cell) + gap));
        }
        line.trim_end().to_owned()
    };
    let body = rows
        .iter()
        .map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(header))
        .chain(body)
        .collect::<Vec<_>>()
        .join("\n")
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".into(), String::new(), "x".into()],
            ["long".into(), "b".into(), String::new()],
        ];
        assert_eq!(
            render(["N", "NAME", "C"], &rows, 1),
            "N    NAME C\na         x\nlong b"
        );
        assert_eq!(render::<2>(["A", "B"], &[], 5), "A     B");
    }
}
