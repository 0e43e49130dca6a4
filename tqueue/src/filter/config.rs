//! Which filters a queue gets: values that can be copied to each thread, and their text form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::checksum::ChecksumConfig;
use super::fault::{Fault, FaultConfig};
use super::latency::{Latency, LatencyConfig};
use super::text::Field;
use super::trace::{Trace, TraceConfig};
use super::{Filter, FilterSetup};
use crate::Error;

/// A filter that is to be made. Each queue makes its own from it.
///
/// It is read from its text form: a name, and fields behind a colon, as in `fault:rate=0.01,op=write`. The page of each
/// filter's module lists its fields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FilterConfig {
    /// See [`fault`](super::fault).
    Fault(FaultConfig),
    /// See [`latency`](super::latency).
    Latency(LatencyConfig),
    /// See [`trace`](super::trace).
    Trace(TraceConfig),
    /// See [`checksum`](super::checksum).
    Checksum(ChecksumConfig),
    /// A filter from elsewhere.
    Custom(CustomFilter),
}

/// A filter from elsewhere; see [`FilterConfig::custom`].
#[derive(Clone)]
pub struct CustomFilter {
    name: Arc<str>,
    make: Arc<dyn Fn(FilterSetup) -> Box<dyn Filter> + Send + Sync>,
}

impl FilterConfig {
    /// A filter of one's own: `make` is called once for each queue, on its thread.
    pub fn custom(name: &str, make: impl Fn(FilterSetup) -> Box<dyn Filter> + Send + Sync + 'static) -> Self {
        Self::Custom(CustomFilter {
            name: name.into(),
            make: Arc::new(make),
        })
    }

    /// The filter for one queue.
    pub(super) fn make(&self, setup: FilterSetup) -> Result<Box<dyn Filter>, Error> {
        Ok(match self {
            Self::Fault(config) => Box::new(Fault::new(config.clone())),
            Self::Latency(config) => Box::new(Latency::new(config.clone())),
            Self::Trace(config) => Box::new(Trace::new(*config, setup)),
            Self::Checksum(config) => Box::new(config.make(setup)?),
            Self::Custom(custom) => (custom.make)(setup),
        })
    }
}

impl FromStr for FilterConfig {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let fields = &Field::list(name, rest)?;
        match name {
            "fault" => FaultConfig::parse(fields).map(Self::Fault),
            "latency" => LatencyConfig::parse(fields).map(Self::Latency),
            "trace" => TraceConfig::parse(fields).map(Self::Trace),
            "checksum" => ChecksumConfig::parse(fields).map(Self::Checksum),
            _ => Err(Error::filter(format!(
                "{name:?}: no such filter; there is fault, latency, trace and checksum"
            ))),
        }
    }
}

impl fmt::Display for FilterConfig {
    /// The text form, with every field that counts; a filter from elsewhere by its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(config) => config.fmt(f),
            Self::Latency(config) => config.fmt(f),
            Self::Trace(config) => config.fmt(f),
            Self::Checksum(config) => config.fmt(f),
            Self::Custom(custom) => f.write_str(&custom.name),
        }
    }
}

impl fmt::Debug for CustomFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CustomFilter").field(&self.name).finish()
    }
}
