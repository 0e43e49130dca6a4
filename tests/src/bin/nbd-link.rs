//! A connection to an NBD server, given to the kernel's own client: `nbd-client` cannot say that a device shall outlive it.
//!
//! ```text
//! nbd-link connect|reconnect N SOCKET      /dev/nbdN, by the server's default export
//! nbd-link disconnect N
//! ```
//!
//! Requests wait for the next connection for half a minute when one is lost.
//!
//! # References
//!
//! `include/uapi/linux/nbd-netlink.h` of the kernel.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::error::Error;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use iomgr_tests::nbd::Client;
use neli::consts::genl::NlAttrType;
use neli::consts::nl::NlmF;
use neli::consts::socket::NlFamily;
use neli::genl::{AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder};
use neli::neli_enum;
use neli::nl::NlPayload;
use neli::router::synchronous::NlRouter;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;
use neli::{Size, ToBytes};

/// `NBD_CMD_*`.
#[neli_enum(serialized_type = "u8")]
enum Command {
    Connect = 1,
    Disconnect = 2,
    Reconfigure = 3,
}

impl neli::consts::genl::Cmd for Command {}

/// `NBD_ATTR_*`, and what lies within the sockets.
#[neli_enum(serialized_type = "u16")]
enum Attribute {
    Index = 1,
    SizeBytes = 2,
    BlockSizeBytes = 3,
    ServerFlags = 5,
    Sockets = 7,
    DeadConnTimeout = 8,
}

impl NlAttrType for Attribute {}

/// `NBD_SOCK_ITEM` in the list of sockets, and `NBD_SOCK_FD` in that.
const FIRST_OF_LIST: u16 = 1;
/// How long requests wait for the next connection.
const DEAD_CONN_SECONDS: u64 = 30;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["connect", index, socket] => link(Command::Connect, index, socket),
        ["reconnect", index, socket] => link(Command::Reconfigure, index, socket),
        ["disconnect", index] => tell(Command::Disconnect, vec![number(index)]),
        _ => panic!("nbd-link connect|reconnect N SOCKET, nbd-link disconnect N"),
    }
    .unwrap();
}

/// Gives the kernel a new connection; it keeps it when this process has ended.
fn link(command: Command, index: &str, socket: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::connect_to(Path::new(socket), "")?;
    let mut attributes = vec![
        number(index),
        attribute(Attribute::SizeBytes, client.size_bytes())?,
        attribute(Attribute::BlockSizeBytes, 512_u64)?,
        attribute(Attribute::ServerFlags, u64::from(client.transmission_flags()))?,
        attribute(Attribute::DeadConnTimeout, DEAD_CONN_SECONDS)?,
    ];
    let stream = client.into_stream();
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    attributes.push(sockets(&stream)?);
    tell(command, attributes)
}

fn number(index: &str) -> Nlattr<Attribute, Buffer> {
    attribute(Attribute::Index, index.parse::<u32>().expect("N is a number")).expect("a number has room")
}

/// The list of the connection's one socket.
fn sockets(stream: &UnixStream) -> Result<Nlattr<Attribute, Buffer>, Box<dyn Error>> {
    let list = attribute(Attribute::Sockets, Buffer::new())?;
    let item = attribute(FIRST_OF_LIST, Buffer::new())?.nest(&attribute(FIRST_OF_LIST, stream.as_raw_fd())?)?;
    Ok(list.nest(&item)?)
}

fn attribute<T: NlAttrType>(kind: T, value: impl Size + ToBytes) -> Result<Nlattr<T, Buffer>, Box<dyn Error>> {
    let kind = AttrTypeBuilder::default().nla_type(kind).build()?;
    Ok(NlattrBuilder::default().nla_type(kind).nla_payload(value).build()?)
}

/// Sends a command, and waits for what the kernel says to it.
fn tell(command: Command, attributes: Vec<Nlattr<Attribute, Buffer>>) -> Result<(), Box<dyn Error>> {
    let (router, _) = NlRouter::connect(NlFamily::Generic, None, Groups::empty())?;
    let family = router.resolve_genl_family("nbd")?;
    let attributes: GenlBuffer<_, _> = attributes.into_iter().collect();
    let message = GenlmsghdrBuilder::default()
        .cmd(command)
        .version(1)
        .attrs(attributes)
        .build()?;
    let answers =
        router.send::<_, _, u16, Genlmsghdr<Command, Attribute>>(family, NlmF::ACK, NlPayload::Payload(message))?;
    for answer in answers {
        answer?;
    }
    Ok(())
}
