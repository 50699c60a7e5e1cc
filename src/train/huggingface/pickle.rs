//! The pickle of a state dict, read and never run.
//!
//! Of pickle's language only what `torch.save` writes for a dictionary of tensors is understood (protocol 2; opcodes as
//! in Python's `pickletools`). Calls are those of three names, and each is a plain case below. Values refer to each other
//! by number, so that nothing nests and nothing is copied: memory grows with the bytes read alone.

use crate::error::{Error, Result};
use std::collections::HashMap;

/// A tensor as the pickle describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pickled<'a> {
    pub name: &'a str,
    pub storage: Storage<'a>,
    /// Values of the storage before its first.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Values from one index to the next, of every dimension.
    pub stride: Vec<usize>,
}

/// Where a tensor's values lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Storage<'a> {
    /// `FloatStorage` and the like.
    pub kind: &'a str,
    /// Which member of the archive.
    pub key: &'a str,
}

/// What the stack holds. Tuples, dictionaries and tensors are numbers of lists of their own.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Nothing,
    Integer(i64),
    Text(&'a str),
    /// A name in a module.
    Global(&'a str, &'a str),
    Tuple(usize),
    Dictionary(usize),
    Storage(Storage<'a>),
    Tensor(usize),
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    dictionaries: Vec<Vec<(Value<'a>, Value<'a>)>>,
    tensors: Vec<(Storage<'a>, usize, Vec<usize>, Vec<usize>)>,
}

/// The tensors of the state dict that `bytes` pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Pickled<'_>>> {
    let mut machine = Machine { bytes, ..Machine::default() };
    loop {
        let begin = machine.at;
        let stop = machine.step().map_err(|e| e.at(format_args!("byte {begin}")))?;
        if stop {
            return machine.finish();
        }
    }
}

fn broken() -> Error {
    Error::format("a damaged pickle")
}

impl<'a> Machine<'a> {
    /// One opcode; whether it was the last.
    fn step(&mut self) -> Result<bool> {
        let opcode = self.take(1)?[0];
        match opcode {
            // PROTO
            0x80 => match self.take(1)?[0] {
                2 => {}
                n => return Err(Error::format(format!("pickle protocol {n}; torch.save writes 2"))),
            },
            b'.' => return Ok(true),
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Nothing),
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Integer(n.into()));
            }
            b'K' => {
                let n = self.take(1)?[0];
                self.stack.push(Value::Integer(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Integer(n.into()));
            }
            0x8a => self.long()?,
            b'X' => {
                let n = u32::from_le_bytes(self.array()?);
                let text = std::str::from_utf8(self.take(n as usize)?).map_err(|_| broken())?;
                self.stack.push(Value::Text(text));
            }
            b'c' => {
                let global = Value::Global(self.line()?, self.line()?);
                self.stack.push(global);
            }
            b'q' => {
                let id = self.take(1)?[0];
                self.remember(id.into())?;
            }
            b'r' => {
                let id = u32::from_le_bytes(self.array()?);
                self.remember(id)?;
            }
            b'h' => {
                let id = self.take(1)?[0];
                self.recall(id.into())?;
            }
            b'j' => {
                let id = u32::from_le_bytes(self.array()?);
                self.recall(id)?;
            }
            b')' => self.tuple(Vec::new()),
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let begin = self.stack.len().checked_sub(n).ok_or_else(broken)?;
                let items = self.stack.split_off(begin);
                self.tuple(items);
            }
            b't' => {
                let items = self.marked()?;
                self.tuple(items);
            }
            b'}' => self.dictionary(),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            // BUILD: the attributes of a dictionary, which torch keeps versions of modules in.
            b'b' => {
                self.pop()?;
                self.dictionary_on_top()?;
            }
            other => {
                return Err(Error::format(format!(
                    "pickle opcode 0x{other:02x}, which no state dict needs: only tensors are read, and nothing is run; \
                     save model.state_dict(), best as safetensors"
                )));
            }
        }
        Ok(false)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).ok_or_else(broken)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(|| Error::format("the pickle is cut off"))?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| broken())
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or_else(|| Error::format("the pickle is cut off"))?;
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).map_err(|_| broken())
    }

    /// A long integer: its length, then its bytes, the lowest first.
    fn long(&mut self) -> Result<()> {
        let n = self.take(1)?[0];
        if n > 8 {
            return Err(Error::format(format!("an integer of {n} bytes")));
        }
        let bytes = self.take(n.into())?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        self.stack.push(Value::Integer(i64::from_le_bytes(all)));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        self.stack.pop().ok_or_else(broken)
    }

    /// What was pushed since the last mark.
    fn marked(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or_else(broken)?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, id: u32) -> Result<()> {
        let value = *self.stack.last().ok_or_else(broken)?;
        self.memo.insert(id, value);
        Ok(())
    }

    fn recall(&mut self, id: u32) -> Result<()> {
        let value = *self.memo.get(&id).ok_or_else(broken)?;
        self.stack.push(value);
        Ok(())
    }

    fn tuple(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Tuple(self.tuples.len()));
        self.tuples.push(items);
    }

    fn dictionary(&mut self) {
        self.stack.push(Value::Dictionary(self.dictionaries.len()));
        self.dictionaries.push(Vec::new());
    }

    fn dictionary_on_top(&mut self) -> Result<&mut Vec<(Value<'a>, Value<'a>)>> {
        match self.stack.last() {
            Some(&Value::Dictionary(i)) => Ok(&mut self.dictionaries[i]),
            _ => Err(Error::format("something else than a dictionary is filled")),
        }
    }

    /// Puts keys and values, by turns, into the dictionary on the stack.
    fn set(&mut self, items: &[Value<'a>]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(broken());
        }
        self.dictionary_on_top()?.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn tuple_of(&self, value: Value<'a>) -> Result<&[Value<'a>]> {
        match value {
            Value::Tuple(i) => Ok(&self.tuples[i]),
            _ => Err(broken()),
        }
    }

    /// A persistent id: `("storage", kind, key, device, number of values)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        match *self.tuple_of(id)? {
            [Value::Text("storage"), Value::Global("torch", kind), Value::Text(key), ..] => {
                self.stack.push(Value::Storage(Storage { kind, key }));
                Ok(())
            }
            _ => Err(Error::format("a persistent id that is no storage of torch")),
        }
    }

    /// A call, of which the outcome is known without making it.
    fn call(&mut self) -> Result<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let arguments = self.tuple_of(arguments)?.to_vec();
        match (callee, arguments.as_slice()) {
            (Value::Global("collections", "OrderedDict"), []) => self.dictionary(),
            (
                Value::Global("torch._utils", "_rebuild_tensor_v2"),
                &[Value::Storage(storage), Value::Integer(offset), shape, stride, ..],
            ) => {
                let (shape, stride) = (self.sizes(shape)?, self.sizes(stride)?);
                let offset = usize::try_from(offset).map_err(|_| broken())?;
                self.stack.push(Value::Tensor(self.tensors.len()));
                self.tensors.push((storage, offset, shape, stride));
            }
            (Value::Global("torch._utils", "_rebuild_parameter"), &[tensor @ Value::Tensor(_), ..]) => {
                self.stack.push(tensor);
            }
            (Value::Global(module, name), _) => {
                return Err(Error::format(format!(
                    "the pickle calls {module}.{name}: only tensors are read, and nothing is run; save \
                     model.state_dict(), best as safetensors"
                )));
            }
            _ => return Err(broken()),
        }
        Ok(())
    }

    /// A tuple of sizes.
    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>> {
        let size = |value: &Value<'a>| match value {
            Value::Integer(n) => usize::try_from(*n).map_err(|_| Error::format(format!("a dimension of {n}"))),
            _ => Err(broken()),
        };
        self.tuple_of(value)?.iter().map(size).collect()
    }

    /// The tensors of the dictionary that is left.
    fn finish(mut self) -> Result<Vec<Pickled<'a>>> {
        let no_dictionary = || Error::format("the pickle is not of a dictionary; save model.state_dict()");
        let Value::Dictionary(top) = self.pop()? else { return Err(no_dictionary()) };
        let pickled = |(key, value): &(Value<'a>, Value<'a>)| match (*key, *value) {
            (Value::Text(name), Value::Tensor(i)) => {
                let (storage, offset, shape, stride) = self.tensors[i].clone();
                Ok(Pickled { name, storage, offset, shape, stride })
            }
            (Value::Text(name), _) => {
                Err(Error::format(format!("entry \"{name}\" is no tensor: not a state dict; save model.state_dict()")))
            }
            _ => Err(no_dictionary()),
        };
        self.dictionaries[top].iter().map(pickled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `torch.save({"w": torch.zeros(2, 3)})` pickles, as `pickletools.dis` of PyTorch's file shows it.
    fn saved() -> Vec<u8> {
        let mut out = b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((".to_vec();
        out.extend(
            b"X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpu",
        );
        out.extend(
            b"q\x06K\x06tq\x07QK\x00K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09\x89ccollections\nOrderedDict\nq\x0a)Rq\x0bt",
        );
        out.extend(b"q\x0cRq\x0ds.");
        out
    }

    #[test]
    fn a_state_dict_is_read() {
        let bytes = saved();
        let found = read(&bytes).unwrap();
        let storage = Storage { kind: "FloatStorage", key: "0" };
        assert_eq!(found, [Pickled { name: "w", storage, offset: 0, shape: vec![2, 3], stride: vec![3, 1] }]);
    }

    #[test]
    fn calls_and_opcodes_that_do_more_are_refused_and_not_run() {
        let refused = |bytes: &[u8]| read(bytes).unwrap_err().message().to_string();
        assert!(refused(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.").contains("os.system"));
        assert!(refused(b"\x80\x02cbuiltins\neval\n)R.").contains("builtins.eval"));
        assert!(refused(b"\x80\x04\x95.").contains("protocol 4"));
        assert!(refused(b"\x80\x02(ios\nsystem\n.").contains("0x69"));
        assert!(refused(b"\x80\x02K\x01.").contains("dictionary"));
        assert!(refused(b"\x80\x02}X\x05\x00\x00\x00epochK\x03s.").contains("epoch"));
        assert!(refused(b"\x80\x02X\xff\xff\xff\xffa").contains("cut off"));
        assert!(refused(b"").contains("cut off"));
        // Nested a million times: nothing recurses.
        let mut nested = b"\x80\x02)".to_vec();
        nested.extend(vec![0x85; 1_000_000]);
        nested.push(b'.');
        assert!(refused(&nested).contains("dictionary"));
    }

    proptest! {
        /// Any damage to a good file, and any bytes at all, end in an answer.
        #[test]
        fn nothing_panics(at in 0usize..200, byte: u8, cut in 0usize..200, noise in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = saved();
            let n = bytes.len();
            bytes[at % n] = byte;
            let _ = read(&bytes);
            let _ = read(&bytes[..cut % n]);
            let _ = read(&noise);
        }
    }
}
