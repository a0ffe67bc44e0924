//! Headers of every call: who we are, which cluster.

use tonic::metadata::{Ascii, AsciiMetadataKey, AsciiMetadataValue, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::config::{ChannelConfig, ChannelError, TokenSource};

/// Adds `authorization`, `clusterid` and the configured headers to each call.
#[derive(Debug, Clone)]
pub struct Credentials {
    token: TokenSource,
    headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
}

impl Credentials {
    pub(crate) fn new(cfg: &ChannelConfig) -> Result<Self, ChannelError> {
        let cluster = ("clusterid".to_owned(), cfg.cluster_id.clone());
        let headers = cfg
            .headers
            .iter()
            .chain([&cluster])
            .map(|(name, value)| {
                let invalid = || ChannelError::Header { name: name.clone() };
                let key = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes())
                    .map_err(|_| invalid())?;
                let value = value.parse().map_err(|_| invalid())?;
                Ok((key, value))
            })
            .collect::<Result<_, ChannelError>>()?;
        let token = cfg.token.clone();
        Ok(Self { token, headers })
    }

    /// A few hundred bytes of a tmpfs file: read in place, since a token that
    /// was rotated must count from the next call on.
    fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let token = match &self.token {
            TokenSource::None => return Ok(None),
            TokenSource::Literal(token) => token.clone(),
            TokenSource::File(path) => std::fs::read_to_string(path).map_err(|error| {
                Status::unauthenticated(format!("token file {}: {error}", path.display()))
            })?,
        };
        let token = token.trim();
        if token.is_empty() {
            return Err(Status::unauthenticated("the token is empty"));
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|_| Status::unauthenticated("the token is not a header value"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let bearer = self.bearer()?;
        let metadata = request.metadata_mut();
        for (key, value) in &self.headers {
            metadata.insert(key.clone(), value.clone());
        }
        if let Some(bearer) = bearer {
            metadata.insert("authorization", bearer);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RootSource;

    fn credentials(token: TokenSource) -> Credentials {
        Credentials::new(&ChannelConfig {
            address: "https://localhost:15012".into(),
            root: RootSource::System,
            alt_hostname: None,
            token,
            cluster_id: "c1".into(),
            headers: vec![("X-Extra".into(), "e".into())],
        })
        .unwrap()
    }

    fn headers(credentials: &mut Credentials) -> Result<Vec<(String, String)>, Status> {
        let request = credentials.call(Request::new(()))?;
        let map = request.metadata().clone().into_headers();
        let mut all: Vec<_> = map
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned()))
            .collect();
        all.sort();
        Ok(all)
    }

    #[test]
    fn headers_of_each_call() {
        let mut with = credentials(TokenSource::Literal("t".into()));
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            headers(&mut with).unwrap(),
            [
                pair("authorization", "Bearer t"),
                pair("clusterid", "c1"),
                pair("x-extra", "e")
            ]
        );
        let without = headers(&mut credentials(TokenSource::None)).unwrap();
        assert_eq!(without, [pair("clusterid", "c1"), pair("x-extra", "e")]);
    }

    #[test]
    fn the_token_file_is_read_for_each_call() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut credentials = credentials(TokenSource::File(file.path().into()));
        assert!(
            headers(&mut credentials).is_err(),
            "an empty file is an error"
        );
        for token in ["one", "two"] {
            std::fs::write(file.path(), format!("{token}\n")).unwrap();
            let all = headers(&mut credentials).unwrap();
            assert_eq!(all[0].1, format!("Bearer {token}"));
        }
    }

    #[test]
    fn a_bad_header_is_named_without_its_value() {
        let cfg = ChannelConfig {
            address: String::new(),
            root: RootSource::System,
            alt_hostname: None,
            token: TokenSource::None,
            cluster_id: "c".into(),
            headers: vec![("a b".into(), "s3cret".into())],
        };
        let error = Credentials::new(&cfg).unwrap_err().to_string();
        assert!(
            error.contains("a b") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
