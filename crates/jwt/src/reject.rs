//! What a request with a bad token is answered (4.9).

use http::HeaderValue;

/// Longest realm, in bytes.
const MAX_REALM: usize = 256;

/// Why a token isn't accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Longer than [`MAX_TOKEN`](crate::MAX_TOKEN).
    TooLarge,
    /// Not three parts of base64url.
    Form,
    /// The first part isn't JSON, or has a member twice.
    Header,
    /// `alg` is absent, `none`, or not supported; or a critical extension is.
    Algorithm,
    /// The second part isn't JSON, is too deep, or has a member twice.
    Payload,
    /// No rule for this issuer looks where the token was.
    Issuer,
    /// `exp` is past.
    Expired,
    /// `nbf` is to come.
    NotYetValid,
    /// None of the audiences of the rule: the only reason that is a 403.
    Audience,
    /// The keys have none for its `kid` and `alg`.
    NoKey,
    /// The signature is wrong.
    Signature,
    /// The keys aren't known (yet), or can't be used.
    KeysUnavailable,
    /// Two tokens are valid and speak of different principals.
    Ambiguous,
}

impl Reason {
    /// The body of the answer.
    pub fn text(self) -> &'static str {
        match self {
            Self::TooLarge => "Jwt is too large",
            Self::Form => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::Header => "Jwt header is an invalid JSON",
            Self::Algorithm => "Jwt header [alg] is not supported",
            Self::Payload => "Jwt payload is an invalid JSON",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Expired => "Jwt is expired",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature | Self::Ambiguous => "Jwt verification fails",
            Self::KeysUnavailable => "Jwks remote fetch is failed",
        }
    }

    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Audience => 403,
            _ => 401,
        }
    }
}

/// The answer to a request with a bad token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// The value of `www-authenticate`.
    pub www_authenticate: HeaderValue,
    /// Its key is unknown and the next fetch of keys was brought forward: wake
    /// whoever asks [`KeyCache::wanted`](crate::KeyCache::wanted).
    pub refetch: bool,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, scheme: &str, host: &str, path: &str) -> Self {
        Self {
            reason,
            www_authenticate: challenge(scheme, host, path),
            refetch: false,
        }
    }

    /// The HTTP status; a gRPC request gets 200 with grpc-status 16 instead.
    pub fn status(&self) -> u16 {
        self.reason.status()
    }

    /// The body.
    pub fn text(&self) -> &'static str {
        self.reason.text()
    }

    /// The response code details of the access log.
    pub fn details(&self) -> String {
        format!(
            "jwt_authn_access_denied{{{}}}",
            self.text().replace(' ', "_")
        )
    }
}

/// `Bearer realm="SCHEME://HOST/PATH", error="invalid_token"`, the path without
/// its query, which can carry the token.
fn challenge(scheme: &str, host: &str, path: &str) -> HeaderValue {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut realm = String::with_capacity(64);
    for c in scheme
        .chars()
        .chain("://".chars())
        .chain(host.chars())
        .chain(path.chars())
    {
        if matches!(c, '"' | '\\') {
            realm.push('\\');
        }
        if c.is_ascii_graphic() {
            realm.push(c);
        }
        if realm.len() >= MAX_REALM {
            break;
        }
    }
    let value = format!("Bearer realm=\"{realm}\", error=\"invalid_token\"");
    HeaderValue::from_str(&value)
        .unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"invalid_token\""))
}
