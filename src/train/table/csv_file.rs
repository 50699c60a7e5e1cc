//! A CSV file with a header: records of bounded length, fields by column name.

use super::filter::Filter;
use super::row::MAX_PACKETS_OF_ROW;
use crate::error::{Error, Result};
use csv::StringRecord;
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::rc::Rc;

/// Longest record in bytes: room for the most packets a row may list, and for other columns.
const MAX_RECORD: usize = 16 << 20;

/// An open file and the record it is at.
pub(super) struct CsvFile {
    reader: csv::Reader<Bounded<File>>,
    left: Rc<Cell<usize>>,
    header: Header,
    record: StringRecord,
    /// Number of the record, the first after the header being 1.
    number: usize,
}

impl CsvFile {
    /// Reads the header.
    pub fn open(file: File) -> Result<Self> {
        let left = Rc::new(Cell::new(MAX_RECORD));
        let mut reader = csv::Reader::from_reader(Bounded { inner: file, left: left.clone() });
        let header = Header::new(reader.headers().map_err(|e| damaged(&e))?);
        Ok(Self { reader, left, header, record: StringRecord::new(), number: 0 })
    }

    /// The column names.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Goes to the next record; false at the end.
    pub fn advance(&mut self) -> Result<bool> {
        self.left.set(MAX_RECORD);
        self.number += 1;
        self.reader.read_record(&mut self.record).map_err(|e| self.at(damaged(&e)))
    }

    /// The record it is at.
    pub fn fields(&self) -> Fields<'_> {
        Fields { header: &self.header, record: &self.record }
    }

    /// The error, said to be in this record.
    pub fn at(&self, error: Error) -> Error {
        error.at(format_args!("row {}", self.number))
    }
}

fn damaged(error: &csv::Error) -> Error {
    Error::format(format!("damaged CSV file: {error}"))
}

/// Lets at most `left` bytes through, so that a record without an end cannot take all memory. The owner of the counter
/// refills it after each record.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let Some(left) = self.left.get().checked_sub(n) else {
            return Err(io::Error::other(format!("a record is longer than {MAX_RECORD} bytes")));
        };
        self.left.set(left);
        Ok(n)
    }
}

/// Column names and where they are.
pub(super) struct Header {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

impl Header {
    fn new(record: &StringRecord) -> Self {
        let names: Vec<String> = record.iter().map(|n| n.trim().to_string()).collect();
        // Of columns that share a name the first counts.
        let index = names.iter().cloned().enumerate().rev().map(|(i, n)| (n, i)).collect();
        Self { names, index }
    }

    /// Whether there is a column `name`.
    pub fn has(&self, name: &str) -> bool {
        self.index(name).is_some()
    }

    /// Where column `name` is.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The name of column `index`.
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// All names, for messages.
    pub fn all_names(&self) -> String {
        self.names.join(", ")
    }

    /// Where the column of a filter is.
    pub fn filtered(&self, filter: &Filter) -> Result<usize> {
        self.index(&filter.column).ok_or_else(|| {
            Error::invalid(format!("no column {} to filter by; there are {}", filter.column, self.all_names()))
        })
    }
}

/// One record by column name.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    header: &'a Header,
    record: &'a StringRecord,
}

impl<'a> Fields<'a> {
    /// The text of the first of `names` that is a column; none if it is empty.
    pub fn text(&self, names: &[&str]) -> Option<&'a str> {
        let index = names.iter().find_map(|n| self.header.index(n))?;
        self.record.get(index).map(str::trim).filter(|t| !t.is_empty())
    }

    /// Whatever column `index` holds.
    pub fn raw(&self, index: usize) -> Option<&'a str> {
        self.record.get(index)
    }

    /// An integer; none if it is missing.
    pub fn integer(&self, names: &[&str]) -> Result<Option<i64>> {
        let Some(text) = self.text(names).filter(|t| !missing(t)) else { return Ok(None) };
        let wrong = || Error::format(format!("column {}: \"{text}\" is not an integer", names[0]));
        integer(text).map(Some).ok_or_else(wrong)
    }

    /// The number in column `index`; none if it is missing.
    pub fn number(&self, index: usize) -> Result<Option<f64>> {
        let text = self.raw(index).unwrap_or_default().trim();
        if missing(text) {
            return Ok(None);
        }
        let wrong = || Error::format(format!("column {}: \"{text}\" is not a number", self.header.name(index)));
        float(text).map(Some).ok_or_else(wrong)
    }

    /// The values of a list, with spaces, semicolons or commas between them, in brackets or not.
    pub fn list<T>(&self, name: &str, parse: fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let text = self.text(&[name]).unwrap_or_default();
        let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let values = text.split([' ', ';', ',']).filter(|t| !t.is_empty()).enumerate().map(|(i, t)| {
            parse(t).ok_or_else(|| Error::format(format!("column {name}: value {i}, \"{t}\", is not a number")))
        });
        // One more than is allowed is enough for the check that follows to refuse.
        values.take(MAX_PACKETS_OF_ROW + 1).collect()
    }
}

/// An integer, also when written as a float without fraction (pandas does that to columns with gaps).
pub(super) fn integer(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let value: f64 = text.parse().ok()?;
        (value.fract() == 0.0 && value.abs() < (1i64 << 53) as f64).then_some(value as i64)
    })
}

/// A number.
pub(super) fn float(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn missing(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("nan") || text.eq_ignore_ascii_case("null")
}
