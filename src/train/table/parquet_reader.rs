//! Flow tables from Parquet, whoever wrote them: any width of integer and float, any encoding of text.

use super::MAX_ROWS;
use super::filter::{self, Filter};
use super::row::{self, KeyParts, MAX_PACKETS_OF_ROW, Row};
use crate::error::{Error, Kind, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ListArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;
use std::fs::File;

/// Rows decoded at a time.
const BATCH: usize = 1024;

/// Our name of a column, and others that mean the same.
const COLUMNS: &[(&str, &[&str])] = &[
    ("label", &[]),
    ("group", &["capture"]),
    ("split", &[]),
    ("packets", &[]),
    ("sizes", &[]),
    ("ipt_us", &[]),
    ("client_ip", &["src_ip"]),
    ("server_ip", &["dst_ip"]),
    ("client_port", &["src_port"]),
    ("server_port", &["dst_port"]),
    ("protocol", &["ip_proto"]),
    ("start_ns", &[]),
];

/// Number of row groups of `file`.
pub(super) fn row_groups(file: File) -> Result<usize> {
    Ok(open(file)?.metadata().num_row_groups())
}

fn open(file: File) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    // Without the Arrow schema that some writers embed, dictionaries and large lists read as plain ones.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(damaged)
}

/// Gives `sink` the rows of `file` that `filters` keep, of row group `only` if one is named; `name` is the group of rows
/// that have none.
pub(super) fn stream(
    file: File,
    only: Option<usize>,
    name: &str,
    filters: &[Filter],
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let builder = open(file)?;
    check_sizes(builder.metadata())?;
    let schema = builder.schema().clone();
    let wanted = wanted_columns(&schema, filters)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let mut first_row = 1;
    let mut builder = builder.with_projection(mask).with_batch_size(BATCH);
    if let Some(i) = only {
        let before = builder.metadata().row_groups().iter().take(i);
        first_row += before.map(|group| group.num_rows() as usize).sum::<usize>();
        builder = builder.with_row_groups(vec![i]);
    }
    let reader = builder.build().map_err(damaged)?;
    for batch in reader {
        let batch = batch.map_err(|e| damaged(e).at(format_args!("row {first_row} or after")))?;
        stream_batch(&batch, first_row, name, filters, sink)?;
        first_row += batch.num_rows();
    }
    Ok(())
}

fn damaged(error: impl std::fmt::Display) -> Error {
    Error::format(format!("damaged Parquet file: {error}"))
}

/// Bounds what decoding may allocate by what the file says of itself.
fn check_sizes(metadata: &ParquetMetaData) -> Result<()> {
    let rows = metadata.file_metadata().num_rows();
    if !(0..=MAX_ROWS as i64).contains(&rows) {
        return Err(Error::new(Kind::Format, format!("{rows} rows; at most {MAX_ROWS} are read")));
    }
    for (i, group) in metadata.row_groups().iter().enumerate() {
        let most = group.num_rows().saturating_mul(MAX_PACKETS_OF_ROW as i64);
        for column in group.columns() {
            if column.num_values() > most {
                let (path, n, rows) = (column.column_path(), column.num_values(), group.num_rows());
                return Err(Error::format(format!(
                    "row group {i}, column {path}: {n} values in {rows} rows; a row may have {MAX_PACKETS_OF_ROW}"
                )));
            }
        }
    }
    Ok(())
}

/// Indices of the columns to decode; an error if one that must be there is not.
fn wanted_columns(schema: &Schema, filters: &[Filter]) -> Result<Vec<usize>> {
    let names = || schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
    for required in ["sizes", "ipt_us"] {
        if schema.index_of(required).is_err() {
            return Err(Error::format(format!("no column {required}; there are {}", names())));
        }
    }
    if let Some(filter) = filters.iter().find(|f| schema.index_of(&f.column).is_err()) {
        return Err(Error::invalid(format!("no column {} to filter by; there are {}", filter.column, names())));
    }
    let ours = COLUMNS.iter().flat_map(|(name, others)| std::iter::once(name).chain(others.iter())).copied();
    let filtered = filters.iter().map(|f| f.column.as_str());
    Ok(ours.chain(filtered).filter_map(|name| schema.index_of(name).ok()).collect())
}

/// The columns of a batch, decoded.
struct Columns<'a> {
    label: Option<&'a StringArray>,
    group: Option<&'a StringArray>,
    split: Option<&'a StringArray>,
    packets: Option<Vec<Option<i64>>>,
    sizes: Lists<'a, i64>,
    ipt_us: Lists<'a, f64>,
    client_ip: Option<&'a StringArray>,
    server_ip: Option<&'a StringArray>,
    client_port: Option<Vec<Option<i64>>>,
    server_port: Option<Vec<Option<i64>>>,
    protocol: Option<Vec<Option<i64>>>,
    start_ns: Option<Vec<Option<i64>>>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            label: text(batch, "label")?,
            group: text(batch, "group")?,
            split: text(batch, "split")?,
            packets: integers_of(batch, "packets")?,
            sizes: Lists::of(batch, "sizes", integers)?,
            ipt_us: Lists::of(batch, "ipt_us", floats)?,
            client_ip: text(batch, "client_ip")?,
            server_ip: text(batch, "server_ip")?,
            client_port: integers_of(batch, "client_port")?,
            server_port: integers_of(batch, "server_port")?,
            protocol: integers_of(batch, "protocol")?,
            start_ns: integers_of(batch, "start_ns")?,
        })
    }

    fn row(&self, i: usize, name: &str) -> Result<Row> {
        let number = |column: &Option<Vec<Option<i64>>>| column.as_ref().and_then(|c| c[i]);
        let packets = row::packets(&self.sizes.values(i)?, &self.ipt_us.values(i)?)?;
        Ok(Row {
            label: at(self.label, i).filter(|l| !l.is_empty()).map(String::from),
            group: at(self.group, i).unwrap_or(name).to_string(),
            split: at(self.split, i).filter(|s| !s.is_empty()).map(str::parse).transpose()?,
            n_packets: row::n_packets(number(&self.packets), packets.len())?,
            packets,
            key: KeyParts {
                client_ip: at(self.client_ip, i),
                server_ip: at(self.server_ip, i),
                client_port: number(&self.client_port),
                server_port: number(&self.server_port),
                protocol: number(&self.protocol),
            }
            .key()?,
            start_ns: row::start_ns(number(&self.start_ns))?,
        })
    }
}

fn stream_batch(
    batch: &RecordBatch,
    first_row: usize,
    name: &str,
    filters: &[Filter],
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let columns = Columns::of(batch)?;
    let filtered = filters.iter().map(|f| text(batch, &f.column)).collect::<Result<Vec<_>>>()?;
    for i in 0..batch.num_rows() {
        if filter::keeps(filters, |f| at(filtered[f], i)) {
            let row = columns.row(i, name).map_err(|e| e.at(format_args!("row {}", first_row + i)))?;
            sink(row)?;
        }
    }
    Ok(())
}

/// The column `name`, or one that means the same.
fn column<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a dyn Array> {
    let others = COLUMNS.iter().find(|c| c.0 == name).map_or(&[][..], |c| c.1);
    let mut names = std::iter::once(&name).chain(others);
    names.find_map(|n| batch.column_by_name(n)).map(|array| &**array)
}

fn wrong_type(name: &str, needed: &str, array: &dyn Array) -> Error {
    Error::format(format!("column {name}: holds {}; it must hold {needed}", array.data_type()))
}

fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<Option<&'a StringArray>> {
    let Some(array) = column(batch, name).filter(|a| *a.data_type() != DataType::Null) else { return Ok(None) };
    array.as_string_opt::<i32>().map(Some).ok_or_else(|| wrong_type(name, "text", array))
}

fn at(column: Option<&StringArray>, i: usize) -> Option<&str> {
    column.filter(|c| c.is_valid(i)).map(|c| c.value(i))
}

fn integers_of(batch: &RecordBatch, name: &str) -> Result<Option<Vec<Option<i64>>>> {
    let Some(array) = column(batch, name) else { return Ok(None) };
    integers(array).map(Some).ok_or_else(|| wrong_type(name, "integers", array))
}

/// Values of any integer type; what does not fit i64 saturates, which every later check refuses.
fn integers(array: &dyn Array) -> Option<Vec<Option<i64>>> {
    Some(match array.data_type() {
        DataType::Int8 => widen::<Int8Type>(array),
        DataType::Int16 => widen::<Int16Type>(array),
        DataType::Int32 => widen::<Int32Type>(array),
        DataType::Int64 => widen::<Int64Type>(array),
        DataType::UInt8 => widen::<UInt8Type>(array),
        DataType::UInt16 => widen::<UInt16Type>(array),
        DataType::UInt32 => widen::<UInt32Type>(array),
        DataType::UInt64 => {
            array.as_primitive::<UInt64Type>().iter().map(|v| v.map(|v| i64::try_from(v).unwrap_or(i64::MAX))).collect()
        }
        DataType::Null => vec![None; array.len()],
        _ => return None,
    })
}

fn widen<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array) -> Vec<Option<i64>> {
    array.as_primitive::<T>().iter().map(|v| v.map(Into::into)).collect()
}

/// Values of any float or integer type.
fn floats(array: &dyn Array) -> Option<Vec<Option<f64>>> {
    match array.data_type() {
        DataType::Float32 => Some(array.as_primitive::<Float32Type>().iter().map(|v| v.map(f64::from)).collect()),
        DataType::Float64 => Some(array.as_primitive::<Float64Type>().iter().collect()),
        _ => Some(integers(array)?.into_iter().map(|v| v.map(|v| v as f64)).collect()),
    }
}

/// A column of lists: the lists, and the values of all of them.
struct Lists<'a, T> {
    name: &'static str,
    lists: &'a ListArray,
    values: Vec<Option<T>>,
}

impl<'a, T: Copy> Lists<'a, T> {
    fn of(
        batch: &'a RecordBatch,
        name: &'static str,
        decode: fn(&dyn Array) -> Option<Vec<Option<T>>>,
    ) -> Result<Self> {
        let array = column(batch, name).ok_or_else(|| Error::format(format!("no column {name}")))?;
        let wrong = || wrong_type(name, "lists of numbers", array);
        let lists = array.as_list_opt::<i32>().ok_or_else(wrong)?;
        let values = decode(lists.values()).ok_or_else(wrong)?;
        Ok(Self { name, lists, values })
    }

    /// The values of row `i`.
    fn values(&self, i: usize) -> Result<Vec<T>> {
        let name = self.name;
        if self.lists.is_null(i) {
            return Err(Error::format(format!("column {name}: null; every flow has packets")));
        }
        let offsets = self.lists.value_offsets();
        let values = &self.values[offsets[i] as usize..offsets[i + 1] as usize];
        let missing = |j: usize| Error::format(format!("column {name}: value {j} is null"));
        values.iter().enumerate().map(|(j, v)| v.ok_or_else(|| missing(j))).collect()
    }
}
