//! The two connections of a rank in the ring: one to the rank after it, which it only writes to, and one from the rank before
//! it, which it only reads.
//!
//! A message is a header of 16 bytes, little-endian: kind (u32), number of the message (u32), length (u64); then as many bytes.
//! Whoever has nothing to say says so four times within the time-out, so that silence means that a process or the network is
//! gone, however long a step takes.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

const HEADER: usize = 16;

/// Kinds of messages: still here; values; why the run ends; the end.
const ALIVE: u32 = 1;
const VALUES: u32 = 2;
const FAILED: u32 = 3;
const END: u32 = 4;

/// Longest reason, bytes.
const MAX_REASON: u64 = 1 << 14;

/// How long the end waits for what is still to be sent.
const LINGER: Duration = Duration::from_secs(2);

/// The rank at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub rank: usize,
    pub address: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} at {}", self.rank, self.address)
    }
}

enum Message {
    Values(Vec<u8>),
    Failed(String),
}

/// The connection to the rank after this one. A thread of its own writes, so that a rank sends and receives at once.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// `None` once it is to end.
    queue: Option<Sender<Message>>,
    /// Buffers that have been sent, to be filled again.
    sent: Receiver<Vec<u8>>,
    stream: TcpStream,
}

impl Outgoing {
    pub fn new(stream: TcpStream, timeout: Duration) -> Result<Self> {
        let writer = stream.try_clone().map_err(|e| failed("cannot write to the next rank", &e))?;
        let (queue, messages) = channel();
        let (give_back, sent) = channel();
        std::thread::Builder::new()
            .name("rank-writer".into())
            .spawn(move || write(writer, &messages, &give_back, timeout / 4))
            .map_err(|e| failed("cannot start a thread", &e))?;
        Ok(Self { queue: Some(queue), sent, stream })
    }

    /// An empty buffer to fill and to [`Self::send`].
    pub fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.sent.try_recv().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Has `values` sent. Whether they arrive shows when something comes back.
    pub fn send(&self, values: Vec<u8>) {
        self.say(Message::Values(values));
    }

    /// Tells the next rank that the run ends, and why.
    pub fn fail(&self, reason: &str) {
        let mut end = reason.len().min(MAX_REASON as usize);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        self.say(Message::Failed(reason[..end].to_string()));
    }

    fn say(&self, message: Message) {
        if let Some(queue) = &self.queue {
            // A writer that has ended has lost its connection, which is then noticed at the other end of the ring.
            let _ = queue.send(message);
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.queue = None;
        // The writer drops its end of this channel when it has said all.
        while self.sent.recv_timeout(LINGER).is_ok() {}
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Writes what is in `messages` until there is no more to come or the connection is gone.
fn write(mut stream: TcpStream, messages: &Receiver<Message>, sent: &Sender<Vec<u8>>, every: Duration) {
    let mut number = 0u32;
    loop {
        let (kind, body) = match messages.recv_timeout(every) {
            Ok(Message::Values(values)) => (VALUES, values),
            Ok(Message::Failed(reason)) => (FAILED, reason.into_bytes()),
            Err(RecvTimeoutError::Timeout) => (ALIVE, Vec::new()),
            Err(RecvTimeoutError::Disconnected) => (END, Vec::new()),
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[4..8].copy_from_slice(&number.to_le_bytes());
        header[8..].copy_from_slice(&(body.len() as u64).to_le_bytes());
        if stream.write_all(&header).and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
        match kind {
            VALUES => {
                number = number.wrapping_add(1);
                // Nobody takes it where the run has ended.
                let _ = sent.send(body);
            }
            ALIVE => {}
            _ => {
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

/// The connection from the rank before this one.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: TcpStream,
    peer: Peer,
    timeout: Duration,
    number: u32,
}

impl Incoming {
    pub fn new(stream: TcpStream, peer: Peer, timeout: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(timeout)).map_err(|e| failed(&format!("cannot read from {peer}"), &e))?;
        Ok(Self { stream, peer, timeout, number: 0 })
    }

    /// Waits for the next values, at most `most` bytes, and puts them into `out`.
    ///
    /// # Errors
    /// Of [`Kind::Runtime`], with a message that names the rank where the run broke, wherever in the ring that was.
    pub fn receive(&mut self, most: usize, out: &mut Vec<u8>) -> Result<()> {
        loop {
            let mut header = [0; HEADER];
            self.read(&mut header)?;
            let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (kind, number, length) = (word(0), word(4), u64::from(word(8)) | u64::from(word(12)) << 32);
            match kind {
                ALIVE if length == 0 => {}
                VALUES if number == self.number && length <= most as u64 => {
                    self.number = self.number.wrapping_add(1);
                    out.resize(length as usize, 0);
                    return self.read(out);
                }
                FAILED if length <= MAX_REASON => {
                    let mut reason = vec![0; length as usize];
                    self.read(&mut reason)?;
                    return Err(Error::new(Kind::Runtime, String::from_utf8_lossy(&reason)));
                }
                END => return Err(self.lost("ended its run while others go on")),
                _ => {
                    return Err(self.lost(&format!(
                        "sent message {number} of kind {kind} with {length} bytes where message {} with at most {most} was due: \
                         it runs another program or other data",
                        self.number
                    )));
                }
            }
        }
    }

    fn read(&mut self, out: &mut [u8]) -> Result<()> {
        self.stream.read_exact(out).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                let seconds = self.timeout.as_secs_f64();
                self.lost(&format!("has said nothing for {seconds} s: it hangs, or the network between is broken"))
            }
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                self.lost(&format!("is gone: it was killed, or its machine is down ({e})"))
            }
            _ => self.lost(&format!("cannot be read from: {e}")),
        })
    }

    fn lost(&self, what: &str) -> Error {
        Error::new(Kind::Runtime, format!("{} {what}", self.peer))
    }
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::new(Kind::Io, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Instant;

    const TIMEOUT: Duration = Duration::from_millis(400);

    /// A connection, and the end that reads it.
    fn pair() -> (TcpStream, Incoming) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, address) = listener.accept().unwrap();
        (out, Incoming::new(stream, Peer { rank: 7, address }, TIMEOUT).unwrap())
    }

    #[test]
    fn values_arrive_in_order_and_waiting_is_no_silence() {
        let (out, mut incoming) = pair();
        let out = Outgoing::new(out, TIMEOUT).unwrap();
        let mut got = Vec::new();
        for n in [0, 1, 70_000] {
            std::thread::sleep(2 * TIMEOUT);
            let mut buffer = out.buffer();
            buffer.resize(n, 5);
            out.send(buffer);
            incoming.receive(70_000, &mut got).unwrap();
            assert_eq!(got, vec![5; n]);
        }
        // A rank that computes for long does not hear the next; that one is patient too.
        std::thread::sleep(2 * TIMEOUT);
        out.fail("rank 3 at home failed: no more");
        assert_eq!(incoming.receive(10, &mut got).unwrap_err().message(), "rank 3 at home failed: no more");
    }

    #[test]
    fn a_rank_that_ends_is_named() {
        let (out, mut incoming) = pair();
        drop(Outgoing::new(out, TIMEOUT).unwrap());
        let error = incoming.receive(10, &mut Vec::new()).unwrap_err();
        assert!(error.message().starts_with("rank 7 at 127.0.0.1:") && error.message().contains("ended"), "{error}");
        let (out, mut incoming) = pair();
        drop(out);
        let error = incoming.receive(10, &mut Vec::new()).unwrap_err();
        assert!(error.message().contains("rank 7") && error.message().contains("gone"), "{error}");
    }

    #[test]
    fn silence_is_an_error_in_time() {
        let (_out, mut incoming) = pair();
        let began = Instant::now();
        let error = incoming.receive(10, &mut Vec::new()).unwrap_err();
        assert!(error.message().contains("0.4 s"), "{error}");
        assert!(began.elapsed() < 10 * TIMEOUT);
    }

    #[test]
    fn what_is_no_message_is_refused_before_memory_is_taken() {
        let header = |kind: u32, number: u32, length: u64| {
            [&kind.to_le_bytes()[..], &number.to_le_bytes(), &length.to_le_bytes()].concat()
        };
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            header(VALUES, 0, u64::MAX),
            header(VALUES, 0, 11),
            header(VALUES, 1, 10),
            header(FAILED, 0, 1 << 40),
            header(ALIVE, 0, 1),
            vec![0; HEADER],
        ] {
            let (mut out, mut incoming) = pair();
            out.write_all(&bytes).unwrap();
            let mut got = Vec::new();
            let error = incoming.receive(10, &mut got).unwrap_err();
            assert!(error.message().contains("another program"), "{error}");
            assert_eq!(got.capacity(), 0);
        }
    }
}
