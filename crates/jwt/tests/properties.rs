//! Whatever a client sends, looking for tokens and taking them out never
//! panics, and nobody gets in without a good token.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "another test uses the rest")]
mod ring;

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use ambit_jwt::{
    Authentication, Authenticator, Context, JwtRequest, KeyCache, KeySet, Now, Outcome, TokenCache,
    Wait, check_url,
};
use ambit_proto::waypoint as pb;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let wire = pb::Authentication {
        origin: Some(pb::Origin {
            name: "jwt".to_owned(),
            ..pb::Origin::default()
        }),
        rules: vec![pb::JwtRule {
            issuer: "https://iss.example".to_owned(),
            keys: Some(pb::jwt_rule::Keys::InlineJwks(ring::jwks(&["p256", "ed"]))),
            from_headers: vec![pb::TokenHeader {
                name: "authorization".to_owned(),
                prefix: "Bearer ".to_owned(),
            }],
            from_params: vec!["t".to_owned()],
            from_cookies: vec!["t".to_owned()],
            ..pb::JwtRule::default()
        }],
        ..pb::Authentication::default()
    };
    let object = Arc::new(Authentication::try_from(wire).unwrap());
    Authenticator::bind([&object], None, 80, None)
});

/// Three parts, often of JSON.
fn token() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just(ring::encode(b"{\"alg\":\"ES256\",\"kid\":\"p256\"}")),
        Just(ring::encode(b"{\"alg\":\"EdDSA\"}")),
        Just(ring::encode(
            b"{\"iss\":\"https://iss.example\",\"sub\":\"a\"}"
        )),
        ".{0,20}",
        prop::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| ring::encode(&bytes)),
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_gets_in(token in token(), cookie in ".{0,40}", query in "[ -~]{0,40}") {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            headers.insert("authorization", value);
        }
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            headers.insert("cookie", value);
        }
        let path = format!("/?{query}&t={token}");
        let request = JwtRequest {
            method: "GET",
            scheme: "http",
            host: "h",
            path_and_query: &path,
            headers: &headers,
        };
        let ctx = Context {
            keys: &KeyCache::default(),
            tokens: &TokenCache::new(2),
            now: Now { mono: Instant::now(), unix: ring::NOW },
        };
        let outcome = AUTHENTICATOR.authenticate(&request, ctx, Wait::No);
        prop_assert!(matches!(outcome, Outcome::Rejected(_)), "{:?}", outcome);
    }

    #[test]
    fn documents_of_any_bytes(document in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = KeySet::parse(&document);
    }

    #[test]
    fn urls_of_any_text(url in ".{0,60}") {
        if let Ok(uri) = check_url(&url) {
            prop_assert!(uri.host().is_some());
        }
    }
}
