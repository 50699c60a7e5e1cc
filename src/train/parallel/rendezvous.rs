//! How the ranks find each other: all come to rank 0, which tells them who is where; then each connects to the next.
//!
//! Anybody can connect to a port. What does not begin as it should is dropped, what asks for something else is told why it is
//! refused, and neither keeps the others waiting. Nothing is encrypted: the ranks belong in a network of their own.

use super::link::{Incoming, Outgoing, Peer};
use super::ranks::{MAX_RANKS, Place};
use super::ring::Ring;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// What every connection begins with.
const MAGIC: [u8; 8] = *b"tgptrank";

/// Version of all that is said between ranks, who must also write numbers in the same order of bytes.
const VERSION: u32 = if cfg!(target_endian = "big") { 1 << 16 | 1 } else { 1 };

/// Longest message of a rendezvous: the addresses of [`MAX_RANKS`] ranks.
const MAX_MESSAGE: usize = MAX_RANKS * 64;

/// How long who has connected may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many may be asked at a time who they are.
const MAX_VISITORS: usize = 256;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What who connects says first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hello {
    /// Version of the library.
    library: String,
    rank: usize,
    size: usize,
    /// The run that it is of; 0 where rank 0 has not told yet.
    run: u64,
    /// Where it listens for the rank before it.
    port: u16,
}

/// What rank 0 answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Who is where, by rank, and the number of the run.
    Welcome {
        run: u64,
        addresses: Vec<SocketAddr>,
    },
    Refused(String),
}

/// Somebody who said who it is.
struct Visitor {
    stream: TcpStream,
    address: SocketAddr,
    hello: Hello,
}

/// Finds the other ranks and joins them to a ring. Waits for them no longer than `timeout`. Also gives the address that this
/// rank has among them.
pub(super) fn join(place: &Place, timeout: Duration) -> Result<(Ring, SocketAddr)> {
    let deadline = Instant::now() + timeout;
    let (listener, run, addresses) = match place.rank {
        0 => lead(place, deadline, timeout)?,
        _ => follow(place, deadline, timeout)?,
    };
    let (after, before) = ((place.rank + 1) % place.size, (place.rank + place.size - 1) % place.size);
    let next = Peer { rank: after, address: addresses[after] };
    let hello = Hello { library: library(), rank: place.rank, size: place.size, run, port: 0 };
    let mut outgoing = connect(&[next.address], deadline).map_err(|e| unreachable(&next, &e))?;
    say(&mut outgoing, &hello).map_err(|e| unreachable(&next, &e))?;
    let door = Door::open(listener)?;
    let incoming = loop {
        let Some(visitor) = door.visitor(deadline) else {
            return Err(absent(&format!("rank {before} at {}", addresses[before]), timeout, ""));
        };
        if (visitor.hello.run, visitor.hello.rank) == (run, before) {
            break visitor.stream;
        }
    };
    let previous = Peer { rank: before, address: addresses[before] };
    let (outgoing, incoming) = (Outgoing::new(outgoing, timeout)?, Incoming::new(incoming, previous, timeout)?);
    Ok((Ring::new(place.rank, place.size, outgoing, incoming), addresses[place.rank]))
}

/// Rank 0's part: waits until all have come and tells them who is where.
fn lead(place: &Place, deadline: Instant, timeout: Duration) -> Result<(TcpListener, u64, Vec<SocketAddr>)> {
    let listener = listen(place)?;
    let own = listener.local_addr().map_err(|e| failed("cannot listen", &e))?;
    // As good as random: the operating system's.
    let run = RandomState::new().hash_one(std::process::id()).max(1);
    let door = Door::open(clone(&listener)?)?;
    let mut there: BTreeMap<usize, Visitor> = BTreeMap::new();
    let mut refused = String::new();
    while there.len() + 1 < place.size {
        let Some(mut visitor) = door.visitor(deadline) else {
            let missing: Vec<String> =
                (1..place.size).filter(|rank| !there.contains_key(rank)).map(|rank| rank.to_string()).collect();
            let error = absent(&format!("rank {}", missing.join(", ")), timeout, &refused);
            for visitor in there.values_mut() {
                // Who has gone meanwhile knows.
                let _ = say(&mut visitor.stream, &Answer::Refused(error.to_string()));
            }
            return Err(error);
        };
        match objection(place, &visitor.hello, &there) {
            Some(objection) => {
                refused = format!("; {} was refused: {objection}", visitor.address);
                // Who is refused may have gone already.
                let _ = say(&mut visitor.stream, &Answer::Refused(objection));
            }
            None => {
                there.insert(visitor.hello.rank, visitor);
            }
        }
    }
    drop(door);
    let address = |visitor: &Visitor| SocketAddr::new(visitor.address.ip(), visitor.hello.port);
    let addresses: Vec<SocketAddr> = std::iter::once(own).chain(there.values().map(address)).collect();
    for (rank, visitor) in &mut there {
        let peer = Peer { rank: *rank, address: visitor.address };
        let answer = Answer::Welcome { run, addresses: addresses.clone() };
        say(&mut visitor.stream, &answer).map_err(|e| unreachable(&peer, &e))?;
    }
    Ok((listener, run, addresses))
}

/// Why a visitor cannot be one of the run's ranks.
fn objection(place: &Place, hello: &Hello, there: &BTreeMap<usize, Visitor>) -> Option<String> {
    let (own, rank) = (library(), hello.rank);
    if hello.library != own {
        return Some(format!("rank {rank} runs trafficgpt {}, rank 0 runs {own}: install one version", hello.library));
    }
    if hello.size != place.size {
        let (is, own) = (hello.size, place.size);
        return Some(format!(
            "rank {rank} was started as one of {is} ranks, rank 0 as one of {own}: start all with one number"
        ));
    }
    if !(1..place.size).contains(&rank) {
        return Some(format!("there are ranks 0 to {}, and rank 0 is here: {rank} cannot come", place.size - 1));
    }
    let other = there.get(&rank)?;
    Some(format!("rank {rank} is at {} already: give every process a rank of its own", other.address))
}

/// The part of the others: say who they are and hear who is where.
fn follow(place: &Place, deadline: Instant, timeout: Duration) -> Result<(TcpListener, u64, Vec<SocketAddr>)> {
    let of_zero = format!("rank 0 at {}, port {}", place.host, place.port);
    let mut addresses = resolve(place)?;
    let stream = connect(&addresses, deadline);
    let mut stream = stream.map_err(|e| absent(&of_zero, timeout, &format!(" ({e}): is MASTER_ADDR its machine?")))?;
    let local = stream.local_addr().map_err(|e| failed("cannot ask for an address", &e))?;
    let listener = TcpListener::bind((local.ip(), 0)).map_err(|e| failed(&format!("cannot listen at {local}"), &e))?;
    let port = listener.local_addr().map_err(|e| failed("cannot ask for a port", &e))?.port();
    let hello = Hello { library: library(), rank: place.rank, size: place.size, run: 0, port };
    let lost = |e| Error::new(Kind::Runtime, format!("{of_zero}: gone before all ranks had come ({e})"));
    say(&mut stream, &hello).map_err(lost)?;
    // Rank 0 gives up first, unless it is dead.
    let wait = deadline.saturating_duration_since(Instant::now()) + PATIENCE;
    stream.set_read_timeout(Some(wait)).map_err(lost)?;
    match hear(&mut stream).map_err(lost)? {
        Answer::Refused(why) => Err(Error::mismatch(format!("{of_zero} refuses this process: {why}"))),
        Answer::Welcome { run, addresses: all } if all.len() == place.size => {
            // Rank 0 may not know what others call it.
            addresses = vec![stream.peer_addr().map_err(lost)?];
            addresses.extend(&all[1..]);
            Ok((listener, run, addresses))
        }
        Answer::Welcome { .. } => Err(Error::mismatch(format!("{of_zero}: tells of another number of ranks"))),
    }
}

/// Where connections come in. A thread asks each who it is, so that nobody who is slow keeps others waiting.
struct Door {
    listener: TcpListener,
    visitors: Receiver<Visitor>,
    come: Sender<Visitor>,
    inside: Arc<AtomicUsize>,
}

impl Door {
    fn open(listener: TcpListener) -> Result<Self> {
        listener.set_nonblocking(true).map_err(|e| failed("cannot listen", &e))?;
        let (come, visitors) = channel();
        Ok(Self { listener, visitors, come, inside: Arc::default() })
    }

    /// The next who says who it is; none if nobody does before `deadline`.
    fn visitor(&self, deadline: Instant) -> Option<Visitor> {
        loop {
            match self.visitors.recv_timeout(PAUSE) {
                Ok(visitor) => return Some(visitor),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= deadline {
                return None;
            }
            // Connections that break before they are taken are no reason to end.
            while let Ok((stream, address)) = self.listener.accept() {
                self.ask(stream, address);
            }
        }
    }

    fn ask(&self, mut stream: TcpStream, address: SocketAddr) {
        if self.inside.load(Ordering::Relaxed) >= MAX_VISITORS {
            return;
        }
        self.inside.fetch_add(1, Ordering::Relaxed);
        let (come, inside) = (self.come.clone(), self.inside.clone());
        let asked = std::thread::Builder::new().name("rank-visitor".into()).spawn(move || {
            match prepare(&stream).and_then(|()| hear(&mut stream)) {
                // Nobody takes it where all have come.
                Ok(hello) => drop(come.send(Visitor { stream, address, hello })),
                Err(e) => turn_away(stream, &e),
            }
            inside.fetch_sub(1, Ordering::Relaxed);
        });
        if asked.is_err() {
            self.inside.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Answers who is no rank, or one of another version, which learns so from the answer; others do not care.
fn turn_away(mut stream: TcpStream, why: &std::io::Error) {
    let answered = say(&mut stream, &Answer::Refused(why.to_string())).and_then(|()| stream.shutdown(Shutdown::Write));
    if answered.is_ok() {
        // What came and is not read would take the answer with it.
        let _ = std::io::copy(&mut stream.take(MAX_MESSAGE as u64), &mut std::io::sink());
    }
}

/// Makes `stream` ready for a rendezvous: it waits, but not for long.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(None)
}

/// Connects to one of `addresses`, which may not listen yet.
fn connect(addresses: &[SocketAddr], deadline: Instant) -> std::io::Result<TcpStream> {
    loop {
        let mut last = std::io::Error::from(ErrorKind::NotFound);
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now()).clamp(PAUSE, PATIENCE);
            match TcpStream::connect_timeout(address, left).and_then(|stream| prepare(&stream).map(|()| stream)) {
                // Where nobody listens yet, the system may have connected the port with itself.
                Ok(stream) if stream.local_addr().ok() == stream.peer_addr().ok() => {}
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        if Instant::now() >= deadline {
            return Err(last);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The addresses that rank 0 may have.
fn resolve(place: &Place) -> Result<Vec<SocketAddr>> {
    let found = (place.host.as_str(), place.port).to_socket_addrs();
    let found = found.map(Iterator::collect).unwrap_or_default();
    match found {
        addresses if !Vec::is_empty(&addresses) => Ok(addresses),
        _ => Err(Error::invalid(format!(
            "MASTER_ADDR is \"{}\", which is no machine's name or address: set it to that of the machine of rank 0",
            place.host
        ))),
    }
}

/// Listens at the address that the others look for rank 0 at, and where this machine does not know it as its own, at all.
fn listen(place: &Place) -> Result<TcpListener> {
    let mut last = None;
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), place.port);
    // Many machines call themselves by an address of the loopback, where nobody else could come.
    let means_loopback = place.host == "localhost" || place.host.parse::<IpAddr>().is_ok();
    let own = resolve(place)?.into_iter().filter(|address| means_loopback || !address.ip().is_loopback());
    for address in own.chain([any]) {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                return Err(Error::new(
                    Kind::Io,
                    format!(
                        "rank 0 cannot listen at {address}, where another program does: set MASTER_PORT to a free port on all ranks"
                    ),
                ));
            }
            Err(e) => last = Some((address, e)),
        }
    }
    let why = last.map_or_else(String::new, |(address, e)| format!(" at {address}: {e}"));
    Err(Error::new(Kind::Io, format!("rank 0 cannot listen{why}: set MASTER_ADDR to this machine's name")))
}

/// Sends `message`: magic, version, length, JSON.
fn say(stream: &mut TcpStream, message: &impl Serialize) -> std::io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    stream.write_all(&bytes)
}

/// Receives what [`say`] sends.
fn hear<T: for<'de> Deserialize<'de>>(stream: &mut TcpStream) -> std::io::Result<T> {
    let mut begin = [0; MAGIC.len() + 8];
    stream.read_exact(&mut begin)?;
    let word = |at: usize| u32::from_le_bytes([begin[at], begin[at + 1], begin[at + 2], begin[at + 3]]);
    let (version, length) = (word(MAGIC.len()), word(MAGIC.len() + 4) as usize);
    let refuse = |what: String| Err(std::io::Error::new(ErrorKind::InvalidData, what));
    if begin[..MAGIC.len()] != MAGIC {
        return refuse("no rank of trafficgpt answers there".into());
    }
    if version != VERSION || length > MAX_MESSAGE {
        return refuse(format!(
            "it speaks version {version} of what ranks speak, this one {VERSION}: install one version"
        ));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn library() -> String {
    env!("CARGO_PKG_VERSION").to_string()
}

fn clone(listener: &TcpListener) -> Result<TcpListener> {
    listener.try_clone().map_err(|e| failed("cannot listen", &e))
}

fn absent(who: &str, timeout: Duration, more: &str) -> Error {
    let seconds = timeout.as_secs_f64();
    Error::new(
        Kind::Runtime,
        format!(
            "{who} has not come within {seconds} s{more}; start all ranks within that time, or give a longer --rank-timeout"
        ),
    )
}

fn unreachable(peer: &Peer, error: &std::io::Error) -> Error {
    Error::new(Kind::Runtime, format!("{peer} cannot be reached: {error}"))
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::new(Kind::Io, format!("{what}: {error}"))
}
