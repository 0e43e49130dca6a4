//! A small client that says whatever a test wants it to, right or wrong.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use blkdev_nbd::proto::{
    ChunkHeader, CommandFlags, CommandHeader, CommandType, OptionCode, OptionHeader, OptionReplyHeader,
    SIMPLE_REPLY_MAGIC,
};

pub(crate) struct Client {
    pub(crate) stream: Stream,
}

/// How it is connected.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A test that hangs fails.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

/// A command without flags.
pub(crate) fn header(kind: CommandType, cookie: u64, offset: u64, len: u32) -> CommandHeader {
    CommandHeader {
        flags: CommandFlags::empty(),
        kind: kind as u16,
        cookie,
        offset,
        len,
    }
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(PATIENCE).unwrap();
        stream.set_write_timeout(PATIENCE).unwrap();
        Self {
            stream: Stream::Unix(stream),
        }
    }

    pub(crate) fn connect_tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(PATIENCE).unwrap();
        stream.set_write_timeout(PATIENCE).unwrap();
        Self {
            stream: Stream::Tcp(stream),
        }
    }

    /// How long reads and writes may take.
    pub(crate) fn set_patience(&self, time: Option<Duration>) {
        match &self.stream {
            Stream::Unix(stream) => stream
                .set_read_timeout(time)
                .and(stream.set_write_timeout(time))
                .unwrap(),
            Stream::Tcp(stream) => stream
                .set_read_timeout(time)
                .and(stream.set_write_timeout(time))
                .unwrap(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn receive<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn receive_vec(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The rest, until the server closes. A reset is an end as well: it has not read everything that we sent.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                bytes
            }
        }
    }

    pub(crate) fn half_close(&self) {
        match &self.stream {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Takes the greeting and answers it.
    pub(crate) fn greet(&mut self, flags: u32) {
        assert!(self.try_greet(flags), "the server has a place for us");
    }

    /// As [`greet`](Self::greet), unless the server closes at once.
    pub(crate) fn try_greet(&mut self, flags: u32) -> bool {
        let mut greeting = [0; 18];
        if self.stream.read_exact(&mut greeting).is_err() {
            return false;
        }
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        self.send(&flags.to_be_bytes());
        true
    }

    /// Asks for an option; the replies up to the last one.
    pub(crate) fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let len = u32::try_from(data.len()).unwrap();
        self.send(&OptionHeader { option, len }.emit());
        self.send(data);
        let mut replies = Vec::new();
        loop {
            let reply = OptionReplyHeader::parse(&self.receive()).unwrap();
            assert_eq!(reply.option, option);
            replies.push((reply.kind, self.receive_vec(reply.len as usize)));
            if reply.kind == 1 || reply.kind >> 31 == 1 {
                return replies;
            }
        }
    }

    /// Chooses an export, structured replies and `base:allocation`.
    pub(crate) fn go_structured(&mut self, name: &str) {
        self.greet(3);
        assert_eq!(self.option(OptionCode::StructuredReply as u32, b""), [(1, vec![])]);
        let query = text32("base:allocation");
        let data = [&text32(name)[..], &1u32.to_be_bytes(), &query].concat();
        let replies = self.option(OptionCode::SetMetaContext as u32, &data);
        assert_eq!(replies[0], (4, [&1u32.to_be_bytes()[..], b"base:allocation"].concat()));
        self.choose(name);
    }

    /// The next chunk, and its payload.
    pub(crate) fn chunk(&mut self) -> (ChunkHeader, Vec<u8>) {
        let header = ChunkHeader::parse(&self.receive()).unwrap();
        (header, self.receive_vec(header.len as usize))
    }

    /// The chunks of the next reply.
    pub(crate) fn chunks(&mut self) -> Vec<(ChunkHeader, Vec<u8>)> {
        let mut chunks = vec![self.chunk()];
        while !chunks.last().unwrap().0.is_last {
            chunks.push(self.chunk());
            assert_eq!(chunks.last().unwrap().0.cookie, chunks[0].0.cookie);
        }
        chunks
    }

    /// Chooses an export; its size.
    pub(crate) fn go(&mut self, name: &str) -> u64 {
        self.greet(3);
        self.choose(name)
    }

    /// The second half of [`go`](Self::go).
    pub(crate) fn choose(&mut self, name: &str) -> u64 {
        let data = [&text32(name)[..], &[0, 0]].concat();
        let replies = self.option(OptionCode::Go as u32, &data);
        assert_eq!(replies.last().unwrap().0, 1, "acknowledged");
        u64::from_be_bytes(replies[0].1[2..10].try_into().unwrap())
    }

    pub(crate) fn command(&mut self, header: CommandHeader, payload: &[u8]) {
        self.send(&[&header.emit()[..], payload].concat());
    }

    /// Cookie and error of the next reply.
    pub(crate) fn reply(&mut self) -> (u64, u32) {
        let reply: [u8; 16] = self.receive();
        let word = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), SIMPLE_REPLY_MAGIC);
        (u64::from_be_bytes(reply[8..].try_into().unwrap()), word(4))
    }

    /// A command and its reply.
    pub(crate) fn ask(&mut self, kind: CommandType, offset: u64, len: u32, payload: &[u8]) -> u32 {
        self.command(header(kind, 77, offset, len), payload);
        let (cookie, error) = self.reply();
        assert_eq!(cookie, 77);
        error
    }

    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        assert_eq!(self.ask(CommandType::Read, offset, len, &[]), 0);
        self.receive_vec(len as usize)
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap();
        assert_eq!(self.ask(CommandType::Write, offset, len, bytes), 0);
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(bytes),
            Self::Tcp(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A string behind its length.
pub(crate) fn text32(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap();
    [&len.to_be_bytes()[..], text.as_bytes()].concat()
}

/// Bytes that tell their place.
pub(crate) fn pattern(len: u32, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at >> 9).to_le_bytes()[0] ^ at.to_le_bytes()[0].wrapping_mul(31) ^ seed)
        .collect()
}
