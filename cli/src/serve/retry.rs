//! `--retry-on`: errors by their names.

use vbd::RetryOn;

/// Reads `EIO`, or `eio`.
pub(super) fn error(text: &str) -> Result<RetryOn, String> {
    RetryOn::from_name(&text.to_ascii_uppercase()).ok_or_else(|| {
        let names: Vec<_> = RetryOn::all().iter_names().map(|(name, _)| name).collect();
        format!("is no error that may pass; those are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names() {
        assert_eq!(error("EIO"), Ok(RetryOn::EIO));
        assert_eq!(error("estale"), Ok(RetryOn::ESTALE));
        for wrong in ["", "EINVAL", "IO", "EIO "] {
            assert!(error(wrong).unwrap_err().contains("EIO, ENOSPC"), "{wrong}");
        }
    }
}
