//! A request for the tests of every module.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_telemetry::{EndLabels, ServiceLabels};
use ambit_types::SpiffeId;
use http::HeaderMap;

use crate::{Ends, Record, RequestProtocol, ResponseFlag, ResponseFlags};

/// Owns what a record borrows.
pub(crate) struct Request {
    pub(crate) headers: HeaderMap,
    pub(crate) response: HeaderMap,
    pub(crate) ends: Ends,
    pub(crate) peer: SpiffeId,
}

impl Request {
    pub(crate) fn new() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "curl/8.0".parse().unwrap());
        headers.insert("x-request-id", "id-1".parse().unwrap());
        let peer: SpiffeId = "spiffe://cluster.local/ns/web/sa/client".parse().unwrap();
        let end = |workload: &str, namespace: &str, principal: &SpiffeId| {
            Arc::new(EndLabels {
                workload: workload.into(),
                canonical_service: workload.into(),
                canonical_revision: "v1".into(),
                namespace: namespace.into(),
                principal: Some(principal.clone()),
                cluster: "Kubernetes".into(),
                ..EndLabels::default()
            })
        };
        let cart = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        Self {
            headers,
            response: HeaderMap::new(),
            ends: Ends {
                source: end("client", "web", &peer),
                destination: end("cart", "shop", &cart),
                service: Some(Arc::new(ServiceLabels {
                    hostname: "cart.shop.svc.cluster.local".into(),
                    namespace: "shop".into(),
                    name: "cart".into(),
                })),
                mutual_tls: true,
                overrides: None,
            },
            peer,
        }
    }

    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            // 2026-11-21T12:00:00.250Z
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_262_400_250),
            duration: Duration::from_millis(12),
            protocol: RequestProtocol::Http,
            version: "HTTP/1.1",
            method: "GET",
            path: "/items?q=1",
            authority: "cart:8080",
            request_headers: &self.headers,
            response_headers: Some(&self.response),
            response_trailers: None,
            status: 200,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            details: "via_upstream",
            termination: "",
            transport_failure: "",
            bytes_received: 0,
            bytes_sent: 42,
            request_messages: 0,
            response_messages: 0,
            upstream_service_time: Some(Duration::from_millis(10)),
            upstream_host: Some(([10, 0, 0, 7], 8080).into()),
            upstream_cluster: "inbound-vip|8080|http|cart.shop.svc.cluster.local",
            upstream_local: None,
            downstream_local: Some(([10, 96, 0, 1], 8080).into()),
            downstream_remote: Some(([10, 0, 0, 1], 40000).into()),
            peer: Some(&self.peer),
            sni: None,
            route: "default",
            ends: &self.ends,
            trace_id: None,
        }
    }
}

#[test]
fn flags_are_written_in_their_order() {
    assert_eq!(ResponseFlags::NONE.to_string(), "-");
    let both = ResponseFlags::from(ResponseFlag::RetryLimit).with(ResponseFlag::UpstreamConnect);
    assert_eq!(both.to_string(), "UF,URX");
    for flag in ResponseFlag::ALL {
        assert_eq!(ResponseFlags::from(*flag).to_string(), flag.as_str());
    }
}

mod replies {
    use http::HeaderMap;

    use crate::{LocalReply, grpc_message, is_grpc};

    /// Reply, status, body, flag, gRPC status.
    type Row = (LocalReply, u16, &'static str, &'static str, u8);

    fn table() -> Vec<Row> {
        let bad_token = LocalReply::BadToken {
            status: 401,
            text: "Jwt is expired",
            details: "jwt_authn_access_denied{Jwt_is_expired}".to_owned(),
        };
        vec![
            (LocalReply::NoRoute, 404, "", "NR", 12),
            (LocalReply::NoCluster(500), 500, "", "NC", 2),
            (LocalReply::NoCluster(503), 503, "", "NC", 14),
            (
                LocalReply::NoHealthyUpstream,
                503,
                "no healthy upstream",
                "UH",
                14,
            ),
            (
                LocalReply::ConnectFailure(String::new()),
                503,
                "*connection failure",
                "UF",
                14,
            ),
            (
                LocalReply::UpstreamClosed,
                503,
                "*connection termination",
                "UC",
                14,
            ),
            (LocalReply::UpstreamReset, 503, "*remote reset", "UR", 14),
            (
                LocalReply::Timeout,
                504,
                "upstream request timeout",
                "UT",
                14,
            ),
            (LocalReply::Overflow, 503, "*overflow", "UO", 14),
            (LocalReply::StreamIdle, 408, "stream timeout", "SI", 2),
            (
                LocalReply::Denied("secret".to_owned()),
                403,
                "RBAC: access denied",
                "",
                7,
            ),
            (bad_token, 401, "Jwt is expired", "", 16),
            (LocalReply::ExtAuthzError(403), 403, "", "UAEX", 7),
            (
                LocalReply::FaultAbort(418),
                418,
                "fault filter abort",
                "FI",
                2,
            ),
            (LocalReply::RateLimited, 429, "local_rate_limited", "RL", 14),
            (LocalReply::HeadersTooLarge, 431, "", "DPE", 2),
            (LocalReply::BadRequest, 400, "Bad Request", "DPE", 13),
            (LocalReply::BodyTooLarge, 413, "Payload Too Large", "", 2),
            (LocalReply::UpgradeRefused, 403, "", "", 7),
            (LocalReply::Overloaded, 503, "envoy overloaded", "OM", 14),
        ]
    }

    /// The table of 1.10.
    #[test]
    fn the_table_of_local_responses() {
        let cases = table();
        let start = "upstream connect error or disconnect/reset before headers. reset reason: ";
        for (reply, status, body, flag, grpc) in cases {
            let body = match body.strip_prefix('*') {
                Some(reason) => format!("{start}{reason}"),
                None => body.to_owned(),
            };
            let plain = reply.respond(false, 14);
            assert_eq!(plain.status(), status, "{reply:?}");
            assert_eq!(*plain.body(), body, "{reply:?}");
            assert_eq!(plain.headers()["content-length"], body.len().to_string());
            assert_eq!(reply.flag().map_or("", |flag| flag.as_str()), flag);
            let answer = reply.respond(true, 14);
            assert_eq!(answer.status(), 200);
            assert_eq!(
                answer.headers()["grpc-status"],
                grpc.to_string(),
                "{reply:?}"
            );
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            assert!(answer.body().is_empty());
        }
    }

    #[test]
    fn details_of_limits() {
        let overflow = LocalReply::Overflow.respond(false, 14);
        assert_eq!(overflow.headers()["x-envoy-overloaded"], "true");
        let limited = LocalReply::RateLimited.respond(true, 8);
        assert_eq!(limited.headers()["grpc-status"], "8");
        assert_eq!(limited.headers()["x-envoy-ratelimited"], "true");
        assert_eq!(grpc_message("50% é\n"), "50%25 %C3%A9%0A");
    }

    #[test]
    fn what_is_grpc() {
        let is = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", value.parse().unwrap());
            is_grpc(&headers)
        };
        assert!(is("application/grpc") && is("application/grpc+proto"));
        assert!(!is("application/grpc-web") && !is("application/json"));
    }
}
