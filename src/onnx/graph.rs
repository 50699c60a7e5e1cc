//! Building a graph node by node; every value is the name of a tensor.

use super::External;
use super::proto::{self, Attribute, Extent, Node, Tensor, ValueInfo};
use crate::error::{Error, Result};
use crate::gpt2::Weights;
use prost::Message;

/// The operator set the graphs use: the first that has `LayerNormalization`.
const OPSET: i64 = 17;
/// The file format's version that goes with it.
const IR_VERSION: i64 = 8;

/// The name of a tensor in the graph.
pub type Value = String;

/// One extent of an input's or output's shape.
#[derive(Clone, Copy)]
pub enum Dim {
    /// A size that the network fixes.
    Size(usize),
    /// A size that a run decides.
    Name(&'static str),
}

/// A graph in the making.
#[derive(Default)]
pub struct Graph {
    proto: proto::Graph,
}

impl Graph {
    /// An empty graph with every tensor of the network as an initializer that points into a safetensors file.
    pub fn new(name: &str, doc: &str, weights: &Weights, external: &External) -> Result<Self> {
        let mut graph = Self::default();
        graph.proto.name = Some(name.to_string());
        graph.proto.doc_string = Some(doc.to_string());
        for tensor in weights.tensors() {
            let offset = external
                .offsets
                .get(&tensor.name)
                .ok_or_else(|| Error::mismatch(format!("{}: tensor {} is missing", external.file, tensor.name)))?;
            let entry = |key: &str, value: String| proto::Entry { key: Some(key.into()), value: Some(value) };
            graph.proto.initializer.push(Tensor {
                dims: tensor.shape.iter().map(|&n| n as i64).collect(),
                data_type: Some(proto::FLOAT),
                raw_data: None,
                external_data: vec![
                    entry("location", external.file.to_string()),
                    entry("offset", offset.to_string()),
                    entry("length", (4 * tensor.range.len()).to_string()),
                ],
                data_location: Some(proto::EXTERNAL),
                name: Some(tensor.name),
            });
        }
        Ok(graph)
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, data_type: i32, shape: &[Dim], doc: &str) -> Value {
        self.proto.input.push(value_info(name, data_type, shape, doc));
        name.to_string()
    }

    /// Makes `value` the output `name`, of f32.
    pub fn output(&mut self, name: &str, value: &str, shape: &[Dim], doc: &str) {
        self.push(&[name.to_string()], "Identity", &[value], vec![]);
        self.proto.output.push(value_info(name, proto::FLOAT, shape, doc));
    }

    /// Adds a node with one output.
    pub fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<Attribute>) -> Value {
        let value = format!("{op}_{}", self.proto.node.len());
        self.push(std::slice::from_ref(&value), op, inputs, attributes);
        value
    }

    /// Splits `value` into three equal parts along `axis`.
    pub fn split3(&mut self, value: &str, axis: i64) -> [Value; 3] {
        let n = self.proto.node.len();
        let parts = ["a", "b", "c"].map(|part| format!("Split_{n}{part}"));
        self.push(&parts, "Split", &[value], vec![int("axis", axis)]);
        parts
    }

    fn push(&mut self, outputs: &[Value], op: &str, inputs: &[&str], attribute: Vec<Attribute>) {
        self.proto.node.push(Node {
            input: inputs.iter().map(|name| name.to_string()).collect(),
            name: outputs.first().cloned(),
            output: outputs.to_vec(),
            op_type: Some(op.to_string()),
            attribute,
        });
    }

    /// A constant vector of int64.
    pub fn int64s(&mut self, values: &[i64]) -> Value {
        self.constant(proto::INT64, &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A constant scalar of int64.
    pub fn int64(&mut self, value: i64) -> Value {
        self.constant(proto::INT64, &[], value.to_le_bytes().to_vec())
    }

    /// A constant scalar of f32.
    pub fn f32(&mut self, value: f32) -> Value {
        self.f32s(&[], &[value])
    }

    /// A constant tensor of f32.
    pub fn f32s(&mut self, shape: &[usize], values: &[f32]) -> Value {
        self.constant(proto::FLOAT, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A constant that is kept in the graph itself; equal ones are kept once.
    fn constant(&mut self, data_type: i32, shape: &[usize], bytes: Vec<u8>) -> Value {
        let dims: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let (data_type, raw_data) = (Some(data_type), Some(bytes));
        let same = |t: &&Tensor| t.raw_data == raw_data && t.dims == dims && t.data_type == data_type;
        if let Some(name) = self.proto.initializer.iter().find(same).and_then(|t| t.name.clone()) {
            return name;
        }
        let name = format!("constant_{}", self.proto.initializer.len());
        self.proto.initializer.push(Tensor {
            dims,
            data_type,
            name: Some(name.clone()),
            raw_data,
            external_data: vec![],
            data_location: None,
        });
        name
    }

    /// The bytes of the model file.
    pub fn into_model(self) -> Vec<u8> {
        proto::Model {
            ir_version: Some(IR_VERSION),
            producer_name: Some(env!("CARGO_PKG_NAME").to_string()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_string()),
            graph: Some(self.proto),
            opset_import: vec![proto::OperatorSet { domain: Some(String::new()), version: Some(OPSET) }],
        }
        .encode_to_vec()
    }
}

/// An attribute that is one integer.
pub fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: Some(name.into()), i: Some(value), r#type: Some(proto::ATTRIBUTE_INT), ..Attribute::default() }
}

/// An attribute that is a list of integers.
pub fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(proto::ATTRIBUTE_INTS),
        ..Attribute::default()
    }
}

/// An attribute that is one float.
pub fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: Some(name.into()), f: Some(value), r#type: Some(proto::ATTRIBUTE_FLOAT), ..Attribute::default() }
}

fn value_info(name: &str, data_type: i32, shape: &[Dim], doc: &str) -> ValueInfo {
    let extent = |dim: &Dim| match *dim {
        Dim::Size(n) => Extent::Size(n as i64),
        Dim::Name(name) => Extent::Name(name.to_string()),
    };
    let dim = shape.iter().map(|d| proto::Dimension { value: Some(extent(d)) }).collect();
    let tensor_type = proto::TensorType { elem_type: Some(data_type), shape: Some(proto::Shape { dim }) };
    ValueInfo {
        name: Some(name.to_string()),
        r#type: Some(proto::Type { tensor_type: Some(tensor_type) }),
        doc_string: Some(doc.to_string()),
    }
}
