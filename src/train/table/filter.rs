//! Choosing rows by the text of a column, as in `--where corpus!=NAME`.

use crate::error::{Error, Result};
use std::str::FromStr;

/// Keeps rows whose `column` is (or is not) exactly `value`. A missing value equals nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name of the column.
    pub column: String,
    /// The text to compare with.
    pub value: String,
    /// Keep the rows that differ instead of those that are equal.
    pub exclude: bool,
}

impl FromStr for Filter {
    type Err = Error;

    /// `column=value` or `column!=value`.
    fn from_str(text: &str) -> Result<Self> {
        let (column, value) = text
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("\"{text}\" is no filter; write column=value or column!=value")))?;
        let (column, exclude) = column.strip_suffix('!').map_or((column, false), |c| (c, true));
        if column.is_empty() {
            return Err(Error::invalid(format!("\"{text}\" names no column; write column=value or column!=value")));
        }
        Ok(Self { column: column.into(), value: value.into(), exclude })
    }
}

/// Whether `filters` keep a row: no exclusion hits, and where inclusions name a column, one of them does. `text(i)` is
/// the row's text in the column of `filters[i]`.
pub(super) fn keeps<'a>(filters: &[Filter], text: impl Fn(usize) -> Option<&'a str>) -> bool {
    let hits = |i: usize, f: &Filter| text(i) == Some(f.value.as_str());
    filters.iter().enumerate().all(|(i, filter)| {
        if filter.exclude {
            return !hits(i, filter);
        }
        // Inclusions of one column are alternatives.
        filters.iter().enumerate().any(|(j, other)| !other.exclude && other.column == filter.column && hits(j, other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(filters: &[&str], corpus: Option<&str>) -> bool {
        let filters: Vec<Filter> = filters.iter().map(|f| f.parse().unwrap()).collect();
        keeps(&filters, |_| corpus)
    }

    #[test]
    fn filters_include_and_exclude() {
        assert!(kept(&[], None));
        assert!(kept(&["corpus!=a"], Some("b")) && kept(&["corpus!=a"], None) && !kept(&["corpus!=a"], Some("a")));
        assert!(kept(&["corpus=a"], Some("a")) && !kept(&["corpus=a"], Some("b")) && !kept(&["corpus=a"], None));
        assert!(kept(&["corpus=a", "corpus=b"], Some("b")) && !kept(&["corpus=a", "corpus=b"], Some("c")));
        assert!(!kept(&["corpus!=a", "corpus!=b"], Some("b")));
        assert!(kept(&["corpus=x=y"], Some("x=y")));
    }

    #[test]
    fn text_that_is_no_filter_is_refused() {
        assert!("corpus".parse::<Filter>().is_err());
        assert!("=a".parse::<Filter>().is_err() && "!=a".parse::<Filter>().is_err());
    }
}
