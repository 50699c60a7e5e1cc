//! What reports are made of, on a page that needs nothing else: the frame of it, tables of figures, text made safe.

use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1040px;margin:2em auto;padding:0 1em}\
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}table{border-collapse:collapse;margin:1em 0}\
th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #e4e4e4;font-variant-numeric:tabular-nums}\
th:first-child,td:first-child{text-align:left}td.best{font-weight:700}.wide{overflow-x:auto}\
.pictures{display:flex;flex-wrap:wrap;gap:8px}svg{max-width:100%;height:auto}p.small{color:#666;font-size:.9em}";

/// What ends a page.
pub const END: &str = "</body></html>\n";

/// What ends a table.
pub const END_TABLE: &str = "</table></div>\n";

/// A page's beginning, with its title as heading.
pub fn begin(title: &str) -> String {
    let title = escaped(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    )
}

/// Begins a table of figures: what its rows are, and its columns.
pub fn begin_table<'a>(out: &mut String, rows: &str, columns: impl IntoIterator<Item = &'a str>) {
    let _ = write!(out, "<div class=\"wide\"><table><tr><th>{}</th>", escaped(rows));
    for column in columns {
        let _ = write!(out, "<th>{}</th>", escaped(column));
    }
    out.push_str("</tr>\n");
}

/// A row of a table: its name, and for each column the figure and whether it is the best.
pub fn row(out: &mut String, name: &str, cells: impl IntoIterator<Item = (String, bool)>) {
    let _ = write!(out, "<tr><td>{}</td>", escaped(name));
    for (cell, best) in cells {
        let _ = write!(out, "<td{}>{}</td>", if best { " class=\"best\"" } else { "" }, escaped(&cell));
    }
    out.push_str("</tr>\n");
}

/// A paragraph in small letters.
pub fn remark(out: &mut String, text: &str) {
    let _ = writeln!(out, "<p class=\"small\">{}</p>", escaped(text));
}

/// A figure with three digits, or a dash.
pub fn figure(value: Option<f64>) -> String {
    value.map_or("-".to_string(), |v| format!("{v:.3}"))
}

/// `text` as it may stand on a page.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
