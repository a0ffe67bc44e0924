//! What an API server answers: pages, lines of a watch, and why there is none.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use http::Request;
use kube::Client;
use serde::Deserialize;

use super::slices;

/// Why a list or a watch gave no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// What comes after the version that we have isn't known any more.
    #[error("the history after our version is gone")]
    Expired,
    /// There is no such collection.
    #[error("there is no such resource")]
    Absent,
    /// We may not.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The server refuses, for now.
    #[error("the API server says {code}: {message}")]
    Refused {
        /// The status.
        code: u16,
        /// In its words.
        message: String,
        /// How long it wants to be left alone.
        wait: Option<Duration>,
    },
    /// It doesn't answer, or stops to.
    #[error("no answer: {0}")]
    Away(#[source] Box<kube::Error>),
    /// The connection ended in the middle of something.
    #[error("cut: {0}")]
    Cut(#[source] io::Error),
    /// Nothing came for too long, not even a sign of life.
    #[error("silent for too long")]
    Silent,
    /// It isn't what an API server says.
    #[error("not an answer of an API server: {0}")]
    Garbled(#[source] serde_json::Error),
    /// The same, so that not even its parts show.
    #[error("not an answer of an API server: no JSON of the right shape")]
    Shapeless,
    /// More than anybody may say at once.
    #[error("an answer of more than {0} MiB")]
    TooLarge(usize),
    /// The request can't be made.
    #[error("not a request: {0}")]
    Request(#[source] kube::core::request::Error),
}

impl Fault {
    pub(super) fn of_client(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let wait = status.details.as_ref();
                let wait = wait.map_or(0, |details| details.retry_after_seconds);
                Self::of_status(status.code, status.message.clone(), wait)
            }
            other => Self::Away(Box::new(other)),
        }
    }

    fn of_status(code: u16, message: String, retry_after: u32) -> Self {
        match code {
            410 => Self::Expired,
            404 => Self::Absent,
            401 | 403 => Self::Forbidden(message),
            _ => Self::Refused {
                code,
                message,
                wait: (retry_after > 0)
                    .then(|| Duration::from_secs(retry_after.into()).min(LONGEST_WAIT)),
            },
        }
    }

    /// Value of metric labels.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Absent => "absent",
            Self::Forbidden(_) => "forbidden",
            Self::Refused { .. } => "refused",
            Self::Away(_) => "away",
            Self::Cut(_) => "cut",
            Self::Silent => "silent",
            Self::Garbled(_) | Self::Shapeless => "garbled",
            Self::TooLarge(_) => "too_large",
            Self::Request(_) => "request",
        }
    }
}

/// A page of a list.
pub(super) struct Page<'t> {
    pub(super) metadata: PageMeta,
    pub(super) items: Vec<&'t [u8]>,
}

/// What a page says of its list.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMeta {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

impl<'t> Page<'t> {
    pub(super) fn read(text: &'t [u8]) -> Result<Self, Fault> {
        let members = slices::members(text).ok_or(Fault::Shapeless)?;
        let member = |key: &[u8]| members.iter().find(|(of, _)| *of == key);
        let metadata = member(b"\"metadata\"").ok_or(Fault::Shapeless)?.1;
        let items =
            member(b"\"items\"").map_or(Some(Vec::new()), |(_, items)| slices::items(items));
        Ok(Self {
            metadata: serde_json::from_slice(metadata).map_err(Fault::Garbled)?,
            items: items.ok_or(Fault::Shapeless)?,
        })
    }
}

/// One line of a watch.
pub(super) enum Line<'t> {
    /// An object is there, or different.
    Applied(Head, &'t [u8]),
    /// An object is gone, or isn't selected any more.
    Deleted(Head),
    /// Nothing happened up to this version.
    Bookmark(u64, String),
}

/// What an object is called, and in which version it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) namespace: String,
    pub(super) name: String,
    /// 0 where it isn't a number.
    pub(super) version: u64,
    /// As the server writes it.
    pub(super) resource_version: String,
}

impl Head {
    pub(super) fn read(text: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Shape {
            metadata: Meta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[derive(Default)]
        struct Meta {
            name: String,
            namespace: String,
            resource_version: String,
        }
        let Shape { metadata } = serde_json::from_slice(text).map_err(Fault::Garbled)?;
        Ok(Self {
            version: metadata.resource_version.parse().unwrap_or(0),
            resource_version: metadata.resource_version,
            namespace: metadata.namespace,
            name: metadata.name,
        })
    }
}

impl<'t> Line<'t> {
    /// Reads a line; an error that the server reports is an error.
    pub(super) fn read(text: &'t [u8]) -> Result<Option<Self>, Fault> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Status {
            code: u16,
            message: String,
        }
        let members = slices::members(text).ok_or(Fault::Shapeless)?;
        let member = |key: &[u8]| {
            let found = members.iter().find(|(of, _)| *of == key);
            found.map(|(_, value)| *value).ok_or(Fault::Shapeless)
        };
        let (kind, object) = (member(b"\"type\"")?, member(b"\"object\"")?);
        Ok(Some(match kind {
            b"\"ADDED\"" | b"\"MODIFIED\"" => Self::Applied(Head::read(object)?, object),
            b"\"DELETED\"" => Self::Deleted(Head::read(object)?),
            b"\"BOOKMARK\"" => {
                let head = Head::read(object)?;
                Self::Bookmark(head.version, head.resource_version)
            }
            b"\"ERROR\"" => {
                let status: Status = serde_json::from_slice(object).map_err(Fault::Garbled)?;
                return Err(Fault::of_status(status.code, status.message, 0));
            }
            _ => return Ok(None),
        }))
    }
}

type Stream = Pin<Box<dyn AsyncBufRead + Send>>;

/// The whole answer to a request; bounded in size and time.
pub(super) async fn fetch(
    client: &Client,
    request: Request<Vec<u8>>,
    patience: Duration,
) -> Result<Vec<u8>, Fault> {
    let reading = async {
        let stream = client.request_stream(request).await;
        let stream = stream.map_err(Fault::of_client)?;
        let mut text = Vec::new();
        let bound = u64::try_from(MAX_PAGE)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mut stream = Box::pin(stream).take(bound);
        stream.read_to_end(&mut text).await.map_err(Fault::Cut)?;
        if text.len() > MAX_PAGE {
            return Err(Fault::TooLarge(MAX_PAGE >> 20));
        }
        Ok(text)
    };
    let read = tokio::time::timeout(patience, reading).await;
    read.unwrap_or(Err(Fault::Silent))
}

/// The lines of an answer that doesn't end.
pub(super) struct Lines {
    stream: Stream,
    line: Vec<u8>,
}

impl Lines {
    /// Begins a watch.
    pub(super) async fn open(
        client: &Client,
        request: Request<Vec<u8>>,
        patience: Duration,
    ) -> Result<Self, Fault> {
        let opening = tokio::time::timeout(patience, client.request_stream(request)).await;
        let stream = opening
            .map_err(|_| Fault::Silent)?
            .map_err(Fault::of_client)?;
        Ok(Self {
            stream: Box::pin(stream),
            line: Vec::new(),
        })
    }

    /// The next line; none at the end, where half a line is dropped. What was
    /// read stays if this is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            let some = self.stream.fill_buf().await.map_err(Fault::Cut)?;
            if some.is_empty() {
                return Ok(None);
            }
            let (taken, whole) = match some.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.line.extend(some.iter().take(end));
                    (end + 1, true)
                }
                None => {
                    self.line.extend_from_slice(some);
                    (some.len(), false)
                }
            };
            self.stream.as_mut().consume(taken);
            if self.line.len() > MAX_LINE {
                return Err(Fault::TooLarge(MAX_LINE >> 20));
            }
            if whole && !self.line.is_empty() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}

/// Many times the largest object that an API server takes.
const MAX_LINE: usize = 16 << 20;
const MAX_PAGE: usize = 256 << 20;
const LONGEST_WAIT: Duration = Duration::from_secs(60);
