//! Flow tables to Parquet, CSV or JSON lines, row by row, so that a table need not fit in memory.

use super::jsonl;
use super::row::Row;
use crate::error::{Error, Kind, Result};
use crate::train::atomic::AtomicFile;
use arrow_array::builder::{Float32Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Rows gathered before they are encoded.
const BATCH: usize = 4096;

/// Rows of a row group: a part of a table that is written, and can be read, by itself.
const ROW_GROUP: usize = 1 << 16;

/// Bytes of encoded rows held before they go to the file as a row group.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Writes rows to a file that appears whole when [`Self::finish`] succeeds, or not at all.
pub struct Writer {
    format: Format,
}

enum Format {
    Parquet { writer: Box<ArrowWriter<AtomicFile>>, batch: Box<Batch> },
    Csv { writer: Box<csv::Writer<BufWriter<AtomicFile>>>, path: String },
    JsonLines { writer: BufWriter<AtomicFile>, path: String },
}

impl Writer {
    /// Begins a Parquet (`.parquet`), CSV (`.csv`) or JSON-lines (`.jsonl`) file, by the extension of `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let format = match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP))
                    .build();
                let batch = Box::new(Batch::new());
                let writer = ArrowWriter::try_new(AtomicFile::create(path)?, batch.schema.clone(), Some(properties))
                    .map_err(|e| failed(path.display(), e))?;
                Format::Parquet { writer: Box::new(writer), batch }
            }
            Some("csv") => {
                let path_text = path.display().to_string();
                let mut writer = csv::Writer::from_writer(BufWriter::new(AtomicFile::create(path)?));
                writer.write_record(NAMES).map_err(|e| failed(&path_text, e))?;
                Format::Csv { writer: Box::new(writer), path: path_text }
            }
            Some("jsonl") => Format::JsonLines {
                writer: BufWriter::new(AtomicFile::create(path)?),
                path: path.display().to_string(),
            },
            _ => {
                let path = path.display();
                return Err(Error::invalid(format!("{path}: a table's name must end in .parquet, .csv or .jsonl")));
            }
        };
        Ok(Self { format })
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Row) -> Result<()> {
        match &mut self.format {
            Format::Parquet { writer, batch } => {
                batch.push(row)?;
                if batch.n_rows == BATCH {
                    flush(writer, batch)?;
                }
                Ok(())
            }
            Format::Csv { writer, path } => writer.write_record(fields(row)).map_err(|e| failed(path, e)),
            Format::JsonLines { writer, path } => {
                writer.write_all(jsonl::line(row)?.as_bytes()).map_err(|e| failed(path, e))
            }
        }
    }

    /// Writes what is left, syncs, and gives the file its name.
    pub fn finish(self) -> Result<()> {
        match self.format {
            Format::Parquet { mut writer, mut batch } => {
                flush(&mut writer, &mut batch)?;
                let path = writer.inner().path().display().to_string();
                writer.into_inner().map_err(|e| failed(path, e))?.commit()
            }
            Format::Csv { writer, path } => {
                let buffer = writer.into_inner().map_err(|e| failed(&path, e.error()))?;
                buffer.into_inner().map_err(|e| failed(&path, e.error()))?.commit()
            }
            Format::JsonLines { writer, path } => writer.into_inner().map_err(|e| failed(&path, e.error()))?.commit(),
        }
    }
}

fn failed(path: impl std::fmt::Display, error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Io, format!("{path}: cannot be written: {error}"))
}

fn flush(writer: &mut ArrowWriter<AtomicFile>, batch: &mut Batch) -> Result<()> {
    let path = writer.inner().path().display().to_string();
    let encode = |writer: &mut ArrowWriter<AtomicFile>, batch: &mut Batch| {
        writer.write(&batch.take()?)?;
        if writer.in_progress_size() >= ROW_GROUP_BYTES { writer.flush() } else { Ok(()) }
    };
    encode(writer, batch).map_err(|e| failed(path, e))
}

/// The columns in order.
const NAMES: [&str; 12] = [
    "label",
    "group",
    "split",
    "packets",
    "sizes",
    "ipt_us",
    "client_ip",
    "server_ip",
    "client_port",
    "server_port",
    "protocol",
    "start_ns",
];

/// A row as text, in the order of [`NAMES`].
fn fields(row: &Row) -> [String; 12] {
    let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(" ");
    let key = |part: fn(&crate::meter::FlowKey) -> String| row.key.as_ref().map(part).unwrap_or_default();
    [
        row.label.clone().unwrap_or_default(),
        row.group.clone(),
        row.split.map(|s| s.name().to_string()).unwrap_or_default(),
        row.n_packets.to_string(),
        list(&mut row.packets.iter().map(|p| p.size.to_string())),
        list(&mut row.packets.iter().map(|p| p.ipt_us.to_string())),
        key(|k| k.client.to_string()),
        key(|k| k.server.to_string()),
        key(|k| k.client_port.to_string()),
        key(|k| k.server_port.to_string()),
        key(|k| k.protocol.to_string()),
        row.start_ns.map(|ns| ns.to_string()).unwrap_or_default(),
    ]
}

/// Rows on their way into Parquet.
struct Batch {
    schema: Arc<Schema>,
    n_rows: usize,
    /// `label, group, split, client_ip, server_ip`
    texts: [StringBuilder; 5],
    /// `packets, start_ns`
    longs: [Int64Builder; 2],
    /// `client_port, server_port, protocol`
    ints: [Int32Builder; 3],
    sizes: ListBuilder<Int32Builder>,
    ipt_us: ListBuilder<Float32Builder>,
}

impl Batch {
    fn new() -> Self {
        let element = |kind: DataType| Arc::new(Field::new("element", kind, false));
        let (size, time) = (element(DataType::Int32), element(DataType::Float32));
        let kind = |name: &str| match name {
            "packets" | "start_ns" => DataType::Int64,
            "client_port" | "server_port" | "protocol" => DataType::Int32,
            "sizes" => DataType::List(size.clone()),
            "ipt_us" => DataType::List(time.clone()),
            _ => DataType::Utf8,
        };
        let always = ["group", "packets", "sizes", "ipt_us"];
        let field = |name: &&str| Field::new(*name, kind(name), !always.contains(name));
        Self {
            schema: Arc::new(Schema::new(NAMES.iter().map(field).collect::<Vec<_>>())),
            n_rows: 0,
            texts: Default::default(),
            longs: Default::default(),
            ints: Default::default(),
            sizes: ListBuilder::new(Int32Builder::new()).with_field(size),
            ipt_us: ListBuilder::new(Float32Builder::new()).with_field(time),
        }
    }

    fn push(&mut self, row: &Row) -> Result<()> {
        let long = |n: u64| i64::try_from(n).map_err(|_| Error::invalid(format!("{n} does not fit a table's column")));
        let (n_packets, start_ns) = (long(row.n_packets)?, row.start_ns.map(long).transpose()?);
        let key = row.key.as_ref();
        let [label, group, split, client_ip, server_ip] = &mut self.texts;
        label.append_option(row.label.as_deref());
        group.append_value(&row.group);
        split.append_option(row.split.map(|s| s.name()));
        client_ip.append_option(key.map(|k| k.client.to_string()));
        server_ip.append_option(key.map(|k| k.server.to_string()));
        let [packets, start] = &mut self.longs;
        packets.append_value(n_packets);
        start.append_option(start_ns);
        let [client_port, server_port, protocol] = &mut self.ints;
        client_port.append_option(key.map(|k| k.client_port.into()));
        server_port.append_option(key.map(|k| k.server_port.into()));
        protocol.append_option(key.map(|k| k.protocol.into()));
        self.sizes.append_value(row.packets.iter().map(|p| Some(p.size)));
        self.ipt_us.append_value(row.packets.iter().map(|p| Some(p.ipt_us)));
        self.n_rows += 1;
        Ok(())
    }

    /// The rows gathered, as a record batch; begins anew.
    fn take(&mut self) -> Result<RecordBatch, arrow_schema::ArrowError> {
        self.n_rows = 0;
        let [label, group, split, client_ip, server_ip] = &mut self.texts;
        let [packets, start_ns] = &mut self.longs;
        let [client_port, server_port, protocol] = &mut self.ints;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(label.finish()),
            Arc::new(group.finish()),
            Arc::new(split.finish()),
            Arc::new(packets.finish()),
            Arc::new(self.sizes.finish()),
            Arc::new(self.ipt_us.finish()),
            Arc::new(client_ip.finish()),
            Arc::new(server_ip.finish()),
            Arc::new(client_port.finish()),
            Arc::new(server_port.finish()),
            Arc::new(protocol.finish()),
            Arc::new(start_ns.finish()),
        ];
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}
