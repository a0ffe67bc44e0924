//! What a request's query asks the service to do.

use std::time::Duration;

use hyper::Uri;

/// How an answer ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    AfterHeaders,
    MidBody,
}

/// See the module. Unknown parameters mean nothing.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Answers with this status.
    pub(crate) status: Option<u16>,
    /// Waits before it answers.
    pub(crate) delay: Duration,
    /// Names the request, for what is counted by name.
    pub(crate) id: Option<String>,
    /// The first so many requests of that name get [`code`](Self::code).
    pub(crate) fail: u64,
    /// 503 unless said otherwise.
    pub(crate) code: Option<u16>,
    /// Those that fail wait so long.
    pub(crate) fail_delay: Duration,
    /// The first so many requests of that name are closed without an answer.
    pub(crate) reset: u64,
    /// Bytes of the body, instead of what was asked.
    pub(crate) size: Option<u64>,
    /// Bytes of headers, besides.
    pub(crate) headers: usize,
    pub(crate) death: Option<Death>,
    /// The body is the request's, as it comes.
    pub(crate) echo: bool,
    /// Ends with a trailer.
    pub(crate) trailers: bool,
}

impl Wishes {
    /// Reads a query; what isn't for this pod (`at=PREFIX`) is left out.
    pub(crate) fn of(uri: &Uri, pod: &str) -> Self {
        let query = uri.query().unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<(&str, &str)> = pairs.collect();
        let here = pairs
            .iter()
            .all(|(name, value)| *name != "at" || pod.starts_with(value));
        let mut wishes = Self::default();
        for (name, value) in pairs {
            wishes.wish(name, value, here);
        }
        wishes
    }

    fn wish(&mut self, name: &str, value: &str, here: bool) {
        let duration = || humantime::parse_duration(value).unwrap_or_default();
        match name {
            "id" => self.id = Some(value.to_owned()),
            "size" => self.size = value.parse().ok(),
            "headers" => self.headers = value.parse().unwrap_or_default(),
            "echo" => self.echo = true,
            "trailers" => self.trailers = true,
            _ if !here => {}
            "status" => self.status = value.parse().ok(),
            "delay" => self.delay = duration(),
            "fail" => self.fail = value.parse().unwrap_or_default(),
            "code" => self.code = value.parse().ok(),
            "fail_delay" => self.fail_delay = duration(),
            "reset" => self.reset = value.parse().unwrap_or_default(),
            "die" => {
                self.death = match value {
                    "after_headers" => Some(Death::AfterHeaders),
                    "mid_body" => Some(Death::MidBody),
                    _ => None,
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_for_the_pods_that_they_name() {
        let uri: Uri = "/x?id=a&status=503&delay=20ms&at=echo-v1&size=7"
            .parse()
            .unwrap();
        let there = Wishes::of(&uri, "echo-v1-0");
        assert_eq!((there.status, there.size), (Some(503), Some(7)));
        assert_eq!(there.delay, Duration::from_millis(20));
        let elsewhere = Wishes::of(&uri, "echo-v2-0");
        assert_eq!((elsewhere.status, elsewhere.size), (None, Some(7)));
        assert_eq!(elsewhere.id.as_deref(), Some("a"));
    }
}
