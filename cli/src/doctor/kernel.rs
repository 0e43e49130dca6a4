//! The kernel's version: the floor, and releases that are known to be bad.

use super::{Check, Verdict};

/// Debian 12's own, and the first with everything that is not probed for.
const FLOOR: (u32, u32) = (6, 1);

/// The running kernel.
pub(super) fn version() -> Check {
    judge(&release())
}

/// Why ublk must not be used on the running kernel.
pub(super) fn ublk_is_bad() -> bool {
    vbd::is_bad_for_ublk(&release())
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn judge(release: &str) -> Check {
    let check = |verdict| {
        Check::new(
            "kernel",
            verdict,
            format!("{release} ({}.{} or newer is supported)", FLOOR.0, FLOOR.1),
        )
    };
    match parse(release) {
        Some([major, minor, _]) if (major, minor) < FLOOR => {
            check(Verdict::Limited).advise("update the kernel; on an older one nothing is tested")
        }
        Some(_) => check(Verdict::Ok),
        None => check(Verdict::Limited).advise("the version cannot be read; nothing else depends on that"),
    }
}

fn parse(release: &str) -> Option<[u32; 3]> {
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
            assert_eq!(parse(release), Some(parts), "{release}");
        }
        assert_eq!(parse("unknown"), None);
    }

    #[test]
    fn the_floor_is_6_1() {
        assert_eq!(judge("6.1.0").verdict, Verdict::Ok);
        assert_eq!(judge("5.15.0-100-generic").verdict, Verdict::Limited);
        assert_eq!(judge("?").verdict, Verdict::Limited);
    }
}
