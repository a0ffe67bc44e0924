//! `AdmissionReview` of `admission.k8s.io/v1`, as far as it is read and written.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the API server sends.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) request: Option<Request>,
}

/// One object on its way in.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Request {
    pub(super) uid: String,
    pub(super) kind: GroupVersionKind,
    pub(super) resource: GroupVersionResource,
    pub(super) namespace: Option<String>,
    pub(super) operation: String,
    pub(super) object: Value,
    pub(super) old_object: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupVersionKind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupVersionResource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) resource: String,
}

impl GroupVersionKind {
    /// As objects write it.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            return self.version.clone();
        }
        format!("{}/{}", self.group, self.version)
    }
}

/// What is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Debug, Serialize)]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    status: &'static str,
    message: String,
    reason: &'static str,
    code: u16,
}

impl Answer {
    /// The object may go in.
    pub(super) fn allowed(uid: String, warnings: Vec<String>) -> Self {
        Self::of(Response {
            uid,
            allowed: true,
            status: None,
            warnings: bounded(warnings),
        })
    }

    /// The object may not go in; `why` is what its author reads.
    pub(super) fn refused(uid: String, why: &str, warnings: Vec<String>) -> Self {
        Self::of(Response {
            uid,
            allowed: false,
            status: Some(Status {
                status: "Failure",
                message: shortened(why, MESSAGE),
                reason: "Invalid",
                code: 422,
            }),
            warnings: bounded(warnings),
        })
    }

    fn of(response: Response) -> Self {
        Self {
            api_version: API_VERSION,
            kind: KIND,
            response,
        }
    }
}

/// The API server cuts off what is more.
fn bounded(warnings: Vec<String>) -> Vec<String> {
    let shown = warnings.iter().take(WARNINGS);
    let mut shown: Vec<String> = shown.map(|text| shortened(text, WARNING)).collect();
    if let Some(more) = warnings
        .len()
        .checked_sub(WARNINGS)
        .filter(|more| *more > 0)
    {
        shown.push(format!("and {more} more"));
    }
    shown
}

fn shortened(text: &str, most: usize) -> String {
    // Headers carry warnings, so that they are one line.
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = plain.take(most).collect();
    if text.chars().count() > most {
        short.push('…');
    }
    short
}

pub(super) const API_VERSION: &str = "admission.k8s.io/v1";
pub(super) const KIND: &str = "AdmissionReview";
const WARNINGS: usize = 10;
/// Characters of one warning.
const WARNING: usize = 250;
/// Characters of the reason.
const MESSAGE: usize = 4000;
