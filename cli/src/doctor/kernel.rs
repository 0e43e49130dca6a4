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
    match vbd::parse_release(release) {
        Some([major, minor, _]) if (major, minor) < FLOOR => {
            check(Verdict::Limited).advise("update the kernel; on an older one nothing is tested")
        }
        Some(_) => check(Verdict::Ok),
        None => check(Verdict::Limited).advise("the version cannot be read; nothing else depends on that"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_6_1() {
        assert_eq!(judge("6.1.0").verdict, Verdict::Ok);
        assert_eq!(judge("5.15.0-100-generic").verdict, Verdict::Limited);
        assert_eq!(judge("?").verdict, Verdict::Limited);
    }
}
