//! Where a server can be reached, and the NBD URIs that lead there.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A socket that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// A unix socket.
    Unix(#[serde(serialize_with = "crate::path_text::serialize")] PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl Address {
    /// The URI of an export here; that of the default export for an empty name.
    pub fn uri(&self, export: &str) -> String {
        let export = percent_encode(export.as_bytes());
        match self {
            Self::Unix(path) => format!(
                "nbd+unix:///{export}?socket={}",
                percent_encode(path.as_os_str().as_bytes())
            ),
            Self::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }
}

/// Keeps what a URI's path and query may hold as it is.
fn percent_encode(text: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    text.iter()
        .map(|&byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_holds_any_path_and_name() {
        let socket = Address::Unix("/run/a b&c.sock".into());
        assert_eq!(socket.uri(""), "nbd+unix:///?socket=/run/a%20b%26c.sock");
        assert_eq!(socket.uri("x?y"), "nbd+unix:///x%3Fy?socket=/run/a%20b%26c.sock");
        let no_unicode = Address::Unix(std::ffi::OsStr::from_bytes(b"/a\xff").into());
        assert_eq!(no_unicode.uri(""), "nbd+unix:///?socket=/a%FF");
        let net = Address::Tcp("[::1]:10809".parse().unwrap());
        assert_eq!(net.uri(""), "nbd://[::1]:10809/");
        assert_eq!(net.uri("a"), "nbd://[::1]:10809/a");
    }
}
