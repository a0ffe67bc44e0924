//! What is listed and watched, and how the requests for it look.

use std::fmt;

use http::Request;
use http::header::ACCEPT;
use kube::core::request::Error as BadRequest;

/// A collection of objects, or one object by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// Of the collection, `/apis/GROUP/VERSION/PLURAL`.
    pub(crate) path: String,
    /// Which objects of it.
    pub(crate) field_selector: Option<String>,
    /// Those with this label, or with a label of this value.
    pub(crate) label_selector: Option<String>,
    /// Whether their metadata is all that is asked for.
    pub(crate) only_metadata: bool,
    /// Objects a page.
    pub(crate) page: u32,
}

impl Resource {
    /// Every object of a collection.
    pub(crate) fn all(group: &str, version: &str, plural: &str) -> Self {
        let path = if group.is_empty() {
            format!("/api/{version}/{plural}")
        } else {
            format!("/apis/{group}/{version}/{plural}")
        };
        Self {
            path,
            field_selector: None,
            label_selector: None,
            only_metadata: false,
            page: PAGE,
        }
    }

    /// Objects of the core group in one namespace.
    fn of_namespace(namespace: &str, plural: &str) -> Self {
        Self::all("", "v1", &format!("namespaces/{namespace}/{plural}"))
    }

    /// Objects of the core group in one namespace that have a label.
    pub(crate) fn labelled(namespace: &str, plural: &str, label: &str) -> Self {
        Self::of_namespace(namespace, plural).with_label(label)
    }

    /// One object of the core group.
    pub(crate) fn named(namespace: &str, plural: &str, name: &str) -> Self {
        Self::of_namespace(namespace, plural).with_name(name)
    }

    /// Those that a field selector lets through.
    pub(crate) fn selecting(self, selector: &str) -> Self {
        Self {
            field_selector: Some(selector.to_owned()),
            ..self
        }
    }

    /// Those of this name, whichever namespace they are in.
    pub(crate) fn with_name(self, name: &str) -> Self {
        self.selecting(&format!("metadata.name={name}"))
    }

    /// Those that a label selector lets through.
    pub(crate) fn with_label(self, selector: &str) -> Self {
        Self {
            label_selector: Some(selector.to_owned()),
            ..self
        }
    }

    /// With nothing but their metadata.
    pub(crate) fn metadata(self) -> Self {
        Self {
            only_metadata: true,
            ..self
        }
    }

    /// With pages of another size.
    pub(crate) fn paged(self, page: u32) -> Self {
        Self { page, ..self }
    }

    /// A page of the newest state: no resource version is named, so that the
    /// answer is never older than what was committed before the question.
    pub(crate) fn list(&self, next: Option<&str>) -> Result<Request<Vec<u8>>, BadRequest> {
        let limit = self.page.to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(next.map(|next| ("continue", next)));
        self.request("PartialObjectMetadataList", &query)
    }

    /// Everything after a version, for about `seconds`.
    pub(crate) fn watch(&self, from: &str, seconds: u64) -> Result<Request<Vec<u8>>, BadRequest> {
        let seconds = seconds.to_string();
        let query = [
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", from),
            ("timeoutSeconds", &seconds),
        ];
        self.request("PartialObjectMetadata", &query)
    }

    /// A request, of which the answer is in this form if metadata is all that is wanted.
    fn request(&self, form: &str, query: &[(&str, &str)]) -> Result<Request<Vec<u8>>, BadRequest> {
        let selectors = [
            ("fieldSelector", self.field_selector.as_deref()),
            ("labelSelector", self.label_selector.as_deref()),
        ];
        let selectors = selectors
            .into_iter()
            .filter_map(|(key, selector)| Some((key, selector?)));
        let mut uri = format!("{}?", self.path);
        for (key, value) in query.iter().copied().chain(selectors) {
            if !uri.ends_with('?') {
                uri.push('&');
            }
            uri.push_str(key);
            uri.push('=');
            escape(value, &mut uri);
        }
        let request = match self.only_metadata {
            true => Request::get(uri).header(
                ACCEPT,
                format!("application/json;as={form};g=meta.k8s.io;v=v1,application/json"),
            ),
            false => Request::get(uri),
        };
        request.body(Vec::new()).map_err(BadRequest::BuildRequest)
    }
}

/// The path, with the selector of a part of it.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        match self
            .field_selector
            .as_ref()
            .or(self.label_selector.as_ref())
        {
            Some(selector) => write!(f, "?{selector}"),
            None => Ok(()),
        }
    }
}

/// Writes a value of a query.
fn escape(value: &str, into: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            other => into.push_str(&format!("%{other:02X}")),
        }
    }
}

/// Objects a page: some MiB of pods at most.
const PAGE: u32 = 250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_pages_selectors_and_versions() {
        let pods = Resource::all("", "v1", "pods").selecting("status.phase!=Failed");
        let uri = |request: Request<Vec<u8>>| request.uri().to_string();
        assert_eq!(
            uri(pods.list(Some("a/b=")).unwrap()),
            "/api/v1/pods?limit=250&continue=a%2Fb%3D&fieldSelector=status.phase%21%3DFailed"
        );
        assert_eq!(
            uri(pods.watch("12", 300).unwrap()),
            "/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion=12&timeoutSeconds=300\
             &fieldSelector=status.phase%21%3DFailed"
        );
        let secret = Resource::named("shop", "secrets", "tls").paged(1);
        assert_eq!(
            uri(secret.list(None).unwrap()),
            "/api/v1/namespaces/shop/secrets?limit=1&fieldSelector=metadata.name%3Dtls"
        );
        assert_eq!(
            secret.to_string(),
            "/api/v1/namespaces/shop/secrets?metadata.name=tls"
        );
        let defaults = Resource::labelled("istio-system", "configmaps", "a.b/c");
        assert_eq!(
            uri(defaults.list(None).unwrap()),
            "/api/v1/namespaces/istio-system/configmaps?limit=250&labelSelector=a.b%2Fc"
        );
        let routes = Resource::all("gateway.networking.k8s.io", "v1", "httproutes");
        assert_eq!(routes.path, "/apis/gateway.networking.k8s.io/v1/httproutes");
        assert_eq!(routes.list(None).unwrap().headers().get(ACCEPT), None);
        let watch = routes.metadata().watch("1", 300).unwrap();
        assert_eq!(
            watch.headers()[ACCEPT],
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
        );
    }
}
