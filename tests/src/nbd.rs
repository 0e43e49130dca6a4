//! A small NBD client of our own: what real clients do not show is which writes were acknowledged when a server died.
//!
//! Fixed newstyle, simple replies, any number of requests in flight.
//!
//! # References
//!
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::server::Server;
use crate::wait::PATIENCE;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

/// The request waits until its bytes are durable.
pub const FUA: u16 = 1;

/// Errors as NBD numbers them.
pub const EIO: u32 = 5;
/// No space is left behind the disk.
pub const ENOSPC: u32 = 28;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Read bytes.
    Read = 0,
    /// Write bytes.
    Write = 1,
    /// Say that no more requests come.
    Disconnect = 2,
    /// Make completed writes durable.
    Flush = 3,
    /// Forget bytes.
    Trim = 4,
    /// Write zeros without sending them.
    WriteZeroes = 6,
}

/// Where a request acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub len: u32,
}

/// A connection in transmission.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    size_bytes: u64,
    transmission_flags: u16,
    next_cookie: u64,
}

impl Client {
    /// Connects to the server's export and agrees on transmission.
    pub fn connect(server: &Server) -> io::Result<Client> {
        Client::connect_to(&server.socket(), export(server.uri()))
    }

    /// Connects to an export of the server on this socket.
    pub fn connect_to(socket: &Path, export: &str) -> io::Result<Client> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Client {
            stream,
            size_bytes: 0,
            transmission_flags: 0,
            next_cookie: 1,
        };
        client.greet()?;
        client.go(export)?;
        Ok(client)
    }

    /// The export's size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What the server can do, as it says it in one word.
    pub fn transmission_flags(&self) -> u16 {
        self.transmission_flags
    }

    /// The connection, for who goes on by himself.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Reads and waits. The outer error is the connection's, the inner one the server's answer.
    pub fn read(&mut self, span: Span) -> io::Result<Result<Vec<u8>, u32>> {
        let cookie = self.send(Command::Read, 0, span, &[])?;
        let error = self.answer(cookie)?;
        if error != 0 {
            return Ok(Err(error));
        }
        let mut bytes = vec![0; span.len as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(Ok(bytes))
    }

    /// The bytes at an offset; any failure is a panic.
    #[track_caller]
    pub fn bytes(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let span = Span {
            offset,
            len: u32::try_from(len).expect("tests read less than 4 GiB at once"),
        };
        self.read(span)
            .expect("the connection holds")
            .unwrap_or_else(|error| panic!("read at {offset}: NBD error {error}"))
    }

    /// Writes and waits.
    pub fn write(&mut self, flags: u16, offset: u64, bytes: &[u8]) -> io::Result<Result<(), u32>> {
        let cookie = self.send_write(flags, offset, bytes)?;
        self.answer(cookie).map(verdict)
    }

    /// Flushes and waits.
    pub fn flush(&mut self) -> io::Result<Result<(), u32>> {
        self.simple(Command::Flush, 0, Span { offset: 0, len: 0 })
    }

    /// Any command without bytes, waited for.
    pub fn simple(&mut self, command: Command, flags: u16, span: Span) -> io::Result<Result<(), u32>> {
        let cookie = self.send(command, flags, span, &[])?;
        self.answer(cookie).map(verdict)
    }

    /// Sends a write and does not wait; returns its cookie.
    pub fn send_write(&mut self, flags: u16, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let len = u32::try_from(bytes.len()).expect("tests write less than 4 GiB at once");
        self.send(Command::Write, flags, Span { offset, len }, bytes)
    }

    /// Receives the next reply of a command that returns no bytes: its cookie and its error.
    pub fn receive(&mut self) -> io::Result<(u64, Result<(), u32>)> {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        let magic = u32::from_be_bytes(reply[..4].try_into().expect("four bytes"));
        expect(magic == SIMPLE_REPLY, "a simple reply")?;
        let error = u32::from_be_bytes(reply[4..8].try_into().expect("four bytes"));
        let cookie = u64::from_be_bytes(reply[8..].try_into().expect("eight bytes"));
        Ok((cookie, verdict(error)))
    }

    /// Takes leave; the server sees a client that ended well.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.send(Command::Disconnect, 0, Span { offset: 0, len: 0 }, &[])
            .map(|_| ())
    }

    fn answer(&mut self, cookie: u64) -> io::Result<u32> {
        let (answered, result) = self.receive()?;
        expect(answered == cookie, "the reply of the only request")?;
        Ok(result.err().unwrap_or(0))
    }

    /// Sends a command and does not wait; returns its cookie.
    pub fn send(&mut self, command: Command, flags: u16, span: Span, bytes: &[u8]) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut message = Vec::with_capacity(28 + bytes.len());
        message.extend(REQUEST.to_be_bytes());
        message.extend(flags.to_be_bytes());
        message.extend((command as u16).to_be_bytes());
        message.extend(cookie.to_be_bytes());
        message.extend(span.offset.to_be_bytes());
        message.extend(span.len.to_be_bytes());
        message.extend(bytes);
        self.stream.write_all(&message)?;
        Ok(cookie)
    }

    /// Greeting and client flags: fixed newstyle, no zeroes.
    fn greet(&mut self) -> io::Result<()> {
        expect(
            self.u64()? == NBDMAGIC && self.u64()? == IHAVEOPT,
            "a newstyle greeting",
        )?;
        let flags = self.u16()?;
        expect(flags & 3 == 3, "fixed newstyle without zeroes")?;
        self.stream.write_all(&3_u32.to_be_bytes())
    }

    /// Option GO without questions: the size comes all the same.
    fn go(&mut self, export: &str) -> io::Result<()> {
        let name_len = u32::try_from(export.len()).expect("names are short");
        let mut option = Vec::new();
        option.extend(IHAVEOPT.to_be_bytes());
        option.extend(OPT_GO.to_be_bytes());
        option.extend((name_len + 6).to_be_bytes());
        option.extend(name_len.to_be_bytes());
        option.extend(export.as_bytes());
        option.extend(0_u16.to_be_bytes());
        self.stream.write_all(&option)?;
        while self.option_reply()? != REP_ACK {}
        Ok(())
    }

    /// One reply to GO; keeps the size when it tells it.
    fn option_reply(&mut self) -> io::Result<u32> {
        expect(self.u64()? == OPTION_REPLY && self.u32()? == OPT_GO, "a reply to GO")?;
        let kind = self.u32()?;
        let mut payload = vec![0; self.u32()? as usize];
        self.stream.read_exact(&mut payload)?;
        expect(kind == REP_ACK || kind == REP_INFO, "GO to be granted")?;
        if kind == REP_INFO && payload.starts_with(&[0, 0]) && payload.len() == 12 {
            self.size_bytes = u64::from_be_bytes(payload[2..10].try_into().expect("eight bytes"));
            self.transmission_flags = u16::from_be_bytes(payload[10..].try_into().expect("two bytes"));
        }
        Ok(kind)
    }

    fn u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes).map(|()| u64::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes))
    }

    fn u16(&mut self) -> io::Result<u16> {
        let mut bytes = [0; 2];
        self.stream.read_exact(&mut bytes).map(|()| u16::from_be_bytes(bytes))
    }
}

fn verdict(error: u32) -> Result<(), u32> {
    if error == 0 { Ok(()) } else { Err(error) }
}

fn expect(holds: bool, what: &str) -> io::Result<()> {
    if holds {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("expected {what}")))
    }
}

/// The export's name: the path of the URI.
fn export(uri: &str) -> &str {
    let path = uri.split_once("://").map_or("", |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path);
    path.split_once('?').map_or(path, |(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_export_is_the_path_of_the_uri() {
        assert_eq!(export("nbd+unix:///?socket=/run/x"), "");
        assert_eq!(export("nbd+unix:///disk?socket=/run/x"), "disk");
        assert_eq!(export("nbd://host/a"), "a");
    }
}
