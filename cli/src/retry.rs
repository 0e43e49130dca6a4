//! `--retry-on` and `--retry-timeout`: what becomes of requests whose image's file fails for a while.

use std::time::Duration;

use clap::Args;
use vbd::{RetryOn, RetryPolicy};

use crate::size;

/// Which errors pass, and for how long requests wait for that.
#[derive(Args, Debug)]
pub(crate) struct Retry {
    /// Errors of the image's file that pass, besides EAGAIN, EBUSY and EINTR: EIO, ENOSPC, EDQUOT, ESTALE, ETIMEDOUT. Requests
    /// that meet one are tried again; a failed flush never is
    #[arg(long, value_name = "ERRORS", value_delimiter = ',', value_parser = error)]
    retry_on: Vec<RetryOn>,
    /// How long a request that meets such an error is tried again, from its arrival on; 0 for not at all
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = size::seconds)]
    retry_timeout: Duration,
}

impl Retry {
    pub(crate) fn policy(&self) -> RetryPolicy {
        RetryPolicy {
            also: self.retry_on.iter().copied().collect(),
            timeout: self.retry_timeout,
        }
    }
}

/// Reads `EIO`, or `eio`.
fn error(text: &str) -> Result<RetryOn, String> {
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
