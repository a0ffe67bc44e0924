//! When keys are fetched, what is kept, and what tokens get meanwhile
//! (`waypoint-contract` 4.9, JWKS caching).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[allow(dead_code, reason = "another test uses the rest")]
mod ring;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_jwt::{
    Authentication, Authenticator, Context, Fetch, FetchFailure, FetchStep, JwtRequest, KeyCache,
    KeysError, MAX_DOCUMENT, Now, Outcome, Reason, TokenCache, Wait,
};
use ambit_proto::waypoint as pb;
use http::HeaderMap;
use http::header::AUTHORIZATION;

const MINUTE: Duration = Duration::from_secs(60);

struct World {
    authenticator: Authenticator,
    keys: KeyCache,
    tokens: TokenCache,
    start: Instant,
}

impl World {
    fn new(keys: pb::jwt_rule::Keys) -> Self {
        let wire = pb::Authentication {
            origin: Some(pb::Origin {
                name: "jwt".to_owned(),
                ..pb::Origin::default()
            }),
            rules: vec![pb::JwtRule {
                issuer: "https://iss.example".to_owned(),
                keys: Some(keys),
                ..pb::JwtRule::default()
            }],
            ..pb::Authentication::default()
        };
        let object = Arc::new(Authentication::try_from(wire).unwrap());
        let world = Self {
            authenticator: Authenticator::bind([&object], None, 80, None),
            keys: KeyCache::default(),
            tokens: TokenCache::new(4),
            start: Instant::now(),
        };
        world
            .keys
            .retain(world.authenticator.sources().cloned(), world.start);
        world
    }

    fn remote() -> Self {
        Self::new(pb::jwt_rule::Keys::JwksUri(
            "https://iss.example/jwks".to_owned(),
        ))
    }

    fn one(&self, after: Duration) -> Fetch {
        let mut wanted = self.keys.wanted(self.start + after);
        assert_eq!(wanted.len(), 1, "one fetch is wanted after {after:?}");
        wanted.remove(0)
    }

    fn none(&self, after: Duration) {
        assert!(self.keys.wanted(self.start + after).is_empty(), "{after:?}");
    }

    fn good(&self, fetch: &Fetch, names: &[&str], after: Duration) {
        let document = ring::jwks(names);
        let next = self
            .keys
            .done(fetch, Ok(document.as_bytes()), self.start + after);
        assert_eq!(next, Ok(None));
    }

    fn bad(&self, fetch: &Fetch, after: Duration) {
        let failed = self
            .keys
            .done(fetch, Err(FetchFailure::Timeout), self.start + after);
        assert_eq!(failed, Err(KeysError::Fetch(FetchFailure::Timeout)));
    }

    /// What a token by that key gets; the second: was a fetch brought forward.
    fn ask(&self, key: &str, after: Duration) -> (Result<(), Reason>, bool) {
        let alg = if key == "p256" { "ES256" } else { "RS256" };
        let header = format!("{{\"alg\":\"{alg}\",\"kid\":\"{key}\"}}");
        let payload = b"{\"iss\":\"https://iss.example\",\"sub\":\"alice\"}";
        let signed = format!(
            "{}.{}",
            ring::encode(header.as_bytes()),
            ring::encode(payload)
        );
        let signature = ring::sign(key, alg, signed.as_bytes());
        let token = format!("Bearer {signed}.{}", ring::encode(&signature));
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, token.parse().unwrap());
        let request = JwtRequest {
            method: "GET",
            scheme: "http",
            host: "cart",
            path_and_query: "/",
            headers: &headers,
        };
        let ctx = Context {
            keys: &self.keys,
            tokens: &self.tokens,
            now: Now {
                mono: self.start + after,
                unix: ring::NOW,
            },
        };
        match self.authenticator.authenticate(&request, ctx, Wait::No) {
            Outcome::Passed(passed) => {
                assert!(passed.token.is_some());
                (Ok(()), false)
            }
            Outcome::Rejected(rejection) => (Err(rejection.reason), rejection.refetch),
            Outcome::Pending(_) => panic!("mustn't wait"),
        }
    }
}

#[test]
fn keys_are_fetched_at_once_and_every_20_minutes() {
    let world = World::remote();
    let fetch = world.one(Duration::ZERO);
    assert_eq!(fetch.url, "https://iss.example/jwks");
    world.none(Duration::ZERO);
    let before = world.keys.version();
    world.good(&fetch, &["rsa"], Duration::ZERO);
    assert_ne!(world.keys.version(), before, "those who wait look again");
    assert_eq!(world.ask("rsa", Duration::ZERO), (Ok(()), false));
    world.none(19 * MINUTE);
    assert_eq!(world.keys.next_due(), Some(world.start + 20 * MINUTE));
    world.one(20 * MINUTE);
}

#[test]
fn failures_back_off_and_the_last_good_keys_stay() {
    let world = World::remote();
    let fetch = world.one(Duration::ZERO);
    world.good(&fetch, &["rsa"], Duration::ZERO);
    let mut at = 20 * MINUTE;
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        let fetch = world.one(at);
        world.bad(&fetch, at);
        assert_eq!(world.ask("rsa", at), (Ok(()), false), "last good keys");
        world.none(at + wait * MINUTE - Duration::from_secs(1));
        at += wait * MINUTE;
    }
    let fetch = world.one(at);
    world.good(&fetch, &["rsa"], at);
    world.none(at + 19 * MINUTE);
}

#[test]
fn without_keys_it_is_closed_and_asks_again() {
    let world = World::remote();
    let fetch = world.one(Duration::ZERO);
    world.bad(&fetch, Duration::ZERO);
    let second = Duration::from_secs(1);
    let (result, refetch) = world.ask("rsa", second);
    assert_eq!(result, Err(Reason::KeysUnavailable));
    assert!(refetch);
    let fetch = world.one(second);
    world.bad(&fetch, second);
    assert_eq!(
        world.ask("rsa", 2 * second),
        (Err(Reason::KeysUnavailable), false),
        "not more often than every 30 s"
    );
}

#[test]
fn an_unknown_kid_refetches_at_most_every_30_seconds() {
    let world = World::remote();
    let fetch = world.one(Duration::ZERO);
    world.good(&fetch, &["rsa"], Duration::ZERO);
    let at = MINUTE;
    assert_eq!(world.ask("p256", at), (Err(Reason::NoKey), true));
    assert_eq!(world.ask("p256", at), (Err(Reason::NoKey), false));
    let fetch = world.one(at);
    world.good(&fetch, &["rsa"], at);
    let soon = at + Duration::from_secs(29);
    assert_eq!(world.ask("p256", soon), (Err(Reason::NoKey), false));
    world.none(soon);
    let later = at + Duration::from_secs(30);
    assert_eq!(world.ask("p256", later), (Err(Reason::NoKey), true));
    let fetch = world.one(later);
    world.good(&fetch, &["rsa", "p256"], later);
    assert_eq!(world.ask("p256", later), (Ok(()), false), "rotated");
}

#[test]
fn what_old_keys_verified_counts_no_more() {
    let world = World::remote();
    let fetch = world.one(Duration::ZERO);
    world.good(&fetch, &["rsa", "p256"], Duration::ZERO);
    assert_eq!(world.ask("p256", Duration::ZERO), (Ok(()), false));
    let fetch = world.one(20 * MINUTE);
    world.good(&fetch, &["rsa"], 20 * MINUTE);
    assert_eq!(world.ask("p256", 20 * MINUTE).0, Err(Reason::NoKey));
}

#[test]
fn junk_and_too_much_are_failures() {
    let world = World::remote();
    let fetch = world.one(Duration::ZERO);
    let done = |document: &[u8]| world.keys.done(&fetch, Ok(document), world.start);
    assert!(matches!(done(b"<html>"), Err(KeysError::Keys(_))));
    assert!(matches!(done(b"{\"keys\":[]}"), Err(KeysError::Keys(_))));
    let large = vec![b' '; MAX_DOCUMENT + 1];
    assert_eq!(done(&large), Err(KeysError::Fetch(FetchFailure::TooLarge)));
    assert_eq!(
        world.ask("rsa", Duration::ZERO).0,
        Err(Reason::KeysUnavailable)
    );
    assert!(world.keys.status()[0].error.is_some());
}

#[test]
fn discovery_names_the_keys() {
    let world = World::new(pb::jwt_rule::Keys::Discover(true));
    let fetch = world.one(Duration::ZERO);
    assert_eq!(
        fetch.url,
        "https://iss.example/.well-known/openid-configuration"
    );
    assert_eq!(fetch.step, FetchStep::Discovery);
    let document = br#"{"issuer":"https://iss.example","jwks_uri":"https://keys.example/k"}"#;
    let next = world.keys.done(&fetch, Ok(document), world.start);
    let next = next.unwrap().unwrap();
    assert_eq!(next.url, "https://keys.example/k");
    world.good(&next, &["rsa"], Duration::ZERO);
    assert_eq!(world.ask("rsa", Duration::ZERO), (Ok(()), false));
}

#[test]
fn discovery_of_another_issuer_or_to_metadata_is_refused() {
    let world = World::new(pb::jwt_rule::Keys::Discover(true));
    let fetch = world.one(Duration::ZERO);
    let done = |document: &[u8]| world.keys.done(&fetch, Ok(document), world.start);
    assert_eq!(
        done(br#"{"issuer":"https://evil","jwks_uri":"https://keys.example/k"}"#),
        Err(KeysError::Discovery)
    );
    assert!(matches!(
        done(br#"{"issuer":"https://iss.example","jwks_uri":"http://169.254.169.254/k"}"#),
        Err(KeysError::Discovered { .. })
    ));
}

#[test]
fn sources_come_and_go_with_the_configuration() {
    let world = World::remote();
    let fetch = world.one(Duration::ZERO);
    world.good(&fetch, &["rsa"], Duration::ZERO);
    world
        .keys
        .retain(world.authenticator.sources().cloned(), world.start);
    world.none(Duration::ZERO);
    assert_eq!(world.ask("rsa", Duration::ZERO), (Ok(()), false));
    world.keys.retain([], world.start);
    assert!(world.keys.status().is_empty());
    assert_eq!(
        world.ask("rsa", Duration::ZERO).0,
        Err(Reason::KeysUnavailable)
    );
}
