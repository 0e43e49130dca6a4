//! Sizes and times, read and written. 1K is 1024 bytes everywhere, as in QEMU's tools.

use std::time::Duration;

use indicatif::BinaryBytes;
use parse_size::Config;

/// Reads `1G`, `512M`, `10GiB`, `1.5T` or plain bytes.
pub(crate) fn parse(text: &str) -> Result<u64, &'static str> {
    Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|_| "is no size; say 1G, 512M, 10GiB or bytes")
}

/// The same for a disk's size.
pub(crate) fn disk(text: &str) -> Result<u64, String> {
    match parse(text)? {
        bytes if bytes > 0 && bytes.is_multiple_of(512) => Ok(bytes),
        bytes => {
            let next = bytes.max(1).checked_next_multiple_of(512);
            let hint = next.map_or("take a smaller one".to_owned(), |next| format!("the next is {next}"));
            Err(format!("is no positive multiple of 512 bytes; {hint}"))
        }
    }
}

/// The same for sizes that are small by nature.
pub(crate) fn parse_u32(text: &str) -> Result<u32, &'static str> {
    u32::try_from(parse(text)?).map_err(|_| "is 4 GiB or more")
}

/// Reads seconds: `2`, `0.5`; or a time with its unit: `500ms`, `2min`. As long as servers take them, everywhere.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let time = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|_| "is no time; say 2, 0.5, 500ms or 2min".to_owned()),
    }?;
    match time <= vbd::Seconds::MAX {
        true => Ok(time),
        false => Err(format!(
            "is too long; say {} at most",
            humantime::format_duration(vbd::Seconds::MAX)
        )),
    }
}

/// A time that is not zero.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("is no time at all; leave it out, or say how long".into()),
        time => Ok(time),
    }
}

/// `1073741824 bytes (1.00 GiB)`.
pub(crate) fn both(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} bytes")
    } else {
        format!("{bytes} bytes ({})", BinaryBytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4k", 4096),
            ("1G", 1 << 30),
            ("10GiB", 10 << 30),
            ("2MB", 2 << 20),
            ("1.5T", 3 << 39),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for wrong in ["", "G", "-1", "1Q", "1G2", "99999999T"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse_u32("4G").is_err());
        assert_eq!(disk("1K"), Ok(1024));
        for (wrong, hint) in [
            ("0", "next is 512"),
            ("1000", "next is 1024"),
            ("18446744073709551615", "smaller"),
        ] {
            assert!(disk(wrong).unwrap_err().contains(hint), "{wrong}");
        }
    }

    #[test]
    fn seconds_may_be_parts() {
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        assert_eq!(seconds("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(seconds("2min").unwrap(), Duration::from_secs(120));
        assert!(seconds("-1").is_err());
        assert!(seconds("soon").is_err());
        assert!(seconds("inf").is_err());
        assert_eq!(seconds("30days").unwrap(), vbd::Seconds::MAX);
        for long in ["31d", "2592000.1", "1e18"] {
            assert!(seconds(long).unwrap_err().contains("30days at most"), "{long}");
        }
    }

    #[test]
    fn no_time_is_no_timeout() {
        assert!(timeout("0").is_err());
        assert_eq!(timeout("90").unwrap(), Duration::from_secs(90));
    }

    #[test]
    fn people_read_units() {
        assert_eq!(both(512), "512 bytes");
        assert_eq!(both(1 << 30), "1073741824 bytes (1.00 GiB)");
    }
}
