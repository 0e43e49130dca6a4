//! What a kernel's release says: its version, and whether a device may be added on it.

use crate::{Error, ErrorKind};

/// Is this release, as `uname -r` tells it, known to oops when a ublk device is added? Linux 6.18.4 and .5 are, and
/// Ubuntu's 6.17.0-35 to -40.
pub fn is_bad_release(release: &str) -> bool {
    match parse_release(release) {
        Some([6, 18, patch]) => [4, 5].contains(&patch),
        Some([6, 17, 0]) => ubuntu_build(release).is_some_and(|build| (35..=40).contains(&build)),
        _ => false,
    }
}

/// Refuses to add a device where the running kernel is such a one.
///
/// # Errors
/// `BadKernel`.
pub fn check_kernel() -> Result<(), Error> {
    check(&rustix::system::uname().release().to_string_lossy())
}

/// Refuses to add a device on such a kernel.
fn check(release: &str) -> Result<(), Error> {
    match is_bad_release(release) {
        true => Err(Error::new(
            ErrorKind::BadKernel,
            format!("this kernel ({release}) oopses when a ublk device is added; update it"),
        )),
        false => Ok(()),
    }
}

/// `6.17.0-38-generic` is Ubuntu's build 38.
fn ubuntu_build(release: &str) -> Option<u32> {
    let (_, tail) = release.split_once('-')?;
    let (build, flavour) = tail.split_once('-')?;
    flavour
        .starts_with(char::is_alphabetic)
        .then(|| build.parse().ok())
        .flatten()
}

/// The version in a release, as any distribution writes it: `6.1.0-37-amd64` is 6.1.0, `7.3-rc1` is 7.3.0.
pub fn parse_release(release: &str) -> Option<[u32; 3]> {
    let numbers = release.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_any_distribution() {
        for (release, parts) in [
            ("6.1.0-37-amd64", [6, 1, 0]),
            ("6.18.44-fc-v657", [6, 18, 44]),
            ("7.3-rc1", [7, 3, 0]),
            ("6.12.48+deb13-amd64", [6, 12, 48]),
        ] {
            assert_eq!(parse_release(release), Some(parts), "{release}");
        }
        assert_eq!(parse_release("unknown"), None);
    }

    #[test]
    fn bad_releases_are_known_and_refused() {
        for release in ["6.18.4", "6.18.5-arch1-1", "6.17.0-35-generic", "6.17.0-40-generic"] {
            assert_eq!(check(release).unwrap_err().kind(), ErrorKind::BadKernel, "{release}");
        }
        for release in [
            "6.18.6",
            "6.18.44-fc-v657",
            "6.17.0-41-generic",
            "6.17.0-34-generic",
            "6.17.0",
            "6.12.4",
            "unknown",
        ] {
            check(release).unwrap();
        }
    }
}
