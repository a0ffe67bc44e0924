//! Log lines: their layout (`ztunnel-contract` 9.4), their level at run time,
//! and a writer that never drops a line.

mod layout;
mod writer;

use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use layout::Format;
pub use writer::{Flush, LogWriter};

type Reload = Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// Changes what is logged while the program runs. Clones share the filter.
#[derive(Clone)]
pub struct LogLevels {
    default: Arc<str>,
    current: Arc<Mutex<String>>,
    reload: Reload,
}

/// A level that can't be set.
#[derive(Debug, thiserror::Error)]
pub enum LogLevelError {
    /// Not a level, or not `target=level`.
    #[error("{0:?} is not LEVEL or TARGET=LEVEL; levels are trace, debug, info, warn, error, off")]
    Invalid(String),
    /// The subscriber is gone.
    #[error("logging has ended")]
    Ended,
}

/// Logging couldn't be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogSetupError {
    /// The filter text is wrong.
    #[error("log filter {filter:?}")]
    Filter {
        /// The text.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Another subscriber is installed.
    #[error("install the log subscriber")]
    Install(#[from] TryInitError),
    /// The writer thread couldn't be started.
    #[error("start the log writer")]
    Writer(#[from] std::io::Error),
}

/// Installs logging to standard output for the whole process. Keep the
/// [`Flush`]: dropping it writes what is queued.
///
/// # Errors
/// If the filter is wrong or logging is installed already.
pub fn install(filter: &str, format: Format) -> Result<(LogLevels, Flush), LogSetupError> {
    let parsed = parse(filter).map_err(|source| LogSetupError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let (filter_layer, handle) = reload::Layer::new(parsed);
    let (writer, flush) = LogWriter::start(std::io::stdout())?;
    let layer = fmt::layer()
        .event_format(format)
        .fmt_fields(layout::Fields)
        .with_writer(writer);
    tracing_subscriber::registry()
        .with(filter_layer)
        .with(layer)
        .try_init()?;
    let levels = LogLevels {
        default: filter.into(),
        current: Arc::new(Mutex::new(filter.to_owned())),
        reload: Arc::new(move |filter| handle.reload(filter).is_ok()),
    };
    Ok((levels, flush))
}

fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(format!("hickory_server::server=off,{filter}"))
}

impl LogLevels {
    /// The filter in force, as `/logging` shows it.
    pub fn current(&self) -> String {
        self.current.lock().clone()
    }

    /// Goes back to the filter of the start.
    ///
    /// # Errors
    /// If logging has ended.
    pub fn reset(&self) -> Result<(), LogLevelError> {
        self.set(self.default.to_string())
    }

    /// Appends `LEVEL` or a comma list of `TARGET=LEVEL` to the filter.
    ///
    /// # Errors
    /// For a bare target name and for a level that doesn't exist: the filter
    /// stays as it was.
    pub fn append(&self, levels: &str) -> Result<(), LogLevelError> {
        for part in levels.split(',') {
            let level = part.split_once('=').map_or(part, |(_, level)| level);
            let known = ["trace", "debug", "info", "warn", "error", "off"];
            if !known.contains(&level.to_ascii_lowercase().as_str()) || part.starts_with('=') {
                return Err(LogLevelError::Invalid(part.to_owned()));
            }
        }
        let current = self.current();
        self.set(if current.is_empty() {
            levels.to_owned()
        } else {
            format!("{current},{levels}")
        })
    }

    fn set(&self, filter: String) -> Result<(), LogLevelError> {
        let parsed = parse(&filter).map_err(|_| LogLevelError::Invalid(filter.clone()))?;
        let mut current = self.current.lock();
        if !(self.reload)(parsed) {
            return Err(LogLevelError::Ended);
        }
        *current = filter;
        Ok(())
    }
}
