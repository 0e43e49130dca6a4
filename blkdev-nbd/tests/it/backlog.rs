//! Clients that let their replies pile up.

use blkdev_nbd::proto::CommandType;
use blkdev_nbd::test_utils::MemDevice;

use crate::client::{header, pattern};
use crate::server::{MIB, TestServer};

/// Its replies fill more of the socket than a client may leave unread, and then it says more than the socket holds: were it
/// not heard before it reads, both would wait for ever.
#[test]
fn a_client_that_reads_last_is_heard_all_the_same() {
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), |config| config.threads = 1);
    let (mut client, mut other) = (server.client(), server.client());
    let (old, new) = (pattern(4096, 1), pattern(MIB, 2));
    client.write(0, &old);
    for n in 0..40 {
        client.command(header(CommandType::Read, n, 0, 4096), &[]);
        // The thread that answers this has looked at that.
        other.read(0, 512);
    }
    client.command(header(CommandType::Write, 40, u64::from(MIB), MIB), &new);
    for n in 0..40 {
        assert_eq!(client.reply(), (n, 0));
        assert!(client.receive_vec(4096) == old);
    }
    assert_eq!(client.reply(), (40, 0));
    assert!(client.read(u64::from(MIB), MIB) == new);
    server.stop();
}

#[test]
fn a_client_that_is_behind_may_go() {
    let server = TestServer::new();
    let mut client = server.client();
    for n in 0..60 {
        client.command(header(CommandType::Read, n, 0, 4096), &[]);
    }
    drop(client);
    assert_eq!(server.client().read(0, 512), [0; 512]);
    server.stop();
}
