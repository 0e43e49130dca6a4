//! Time stamps: seconds since 2000-01-01T00:00:00Z.

/// Midnight of 1 January 2000 UTC, in Unix time.
pub const VHD_EPOCH: u64 = 946_684_800;

/// The time stamp for a Unix time; times that do not fit are clamped, for a time stamp is never worth an error.
pub fn timestamp(unix_seconds: u64) -> u32 {
    u32::try_from(unix_seconds.saturating_sub(VHD_EPOCH)).unwrap_or(u32::MAX)
}

/// The Unix time of a time stamp.
pub fn unix_time(timestamp: u32) -> u64 {
    VHD_EPOCH + u64::from(timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_the_format_are_clamped() {
        assert_eq!(timestamp(0), 0);
        assert_eq!(timestamp(VHD_EPOCH + 5), 5);
        assert_eq!(timestamp(u64::MAX), u32::MAX);
        assert_eq!(unix_time(5), VHD_EPOCH + 5);
    }
}
