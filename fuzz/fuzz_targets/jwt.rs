//! Tokens and key documents: nothing that isn't signed by the one key is ever
//! believed, whatever its bytes.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ambit_jwt::{
    Authentication, Authenticator, Context, JwtRequest, KeyCache, KeySet, Now, Outcome, TokenCache,
    Wait,
};
use ambit_proto::waypoint;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

struct World {
    authenticator: Authenticator,
    keys: KeyCache,
    tokens: TokenCache,
}

/// The private key of this public one exists nowhere.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"a",
"x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let rule = waypoint::JwtRule {
        issuer: "https://issuer.example".to_owned(),
        keys: Some(waypoint::jwt_rule::Keys::InlineJwks(KEYS.to_owned())),
        ..waypoint::JwtRule::default()
    };
    let message = waypoint::Authentication {
        origin: Some(waypoint::Origin {
            kind: "RequestAuthentication".to_owned(),
            namespace: "a".to_owned(),
            name: "b".to_owned(),
            generation: 0,
        }),
        targets: vec![waypoint::Target::default()],
        rules: vec![rule],
        ..waypoint::Authentication::default()
    };
    let object = Arc::new(Authentication::try_from(message).expect("a good rule"));
    World {
        authenticator: Authenticator::bind(&[object], None, 80, None),
        keys: KeyCache::default(),
        tokens: TokenCache::new(64),
    }
});

fuzz_target!(|data: &[u8]| {
    let _ = KeySet::parse(data);
    let bearer = [b"Bearer ", data].concat();
    let Ok(value) = HeaderValue::from_bytes(&bearer) else {
        return;
    };
    let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
    let request = JwtRequest {
        method: "GET",
        scheme: "http",
        host: "a",
        path_and_query: "/",
        headers: &headers,
    };
    let context = Context {
        keys: &WORLD.keys,
        tokens: &WORLD.tokens,
        now: Now {
            mono: Instant::now(),
            unix: Duration::from_secs(1_800_000_000),
        },
    };
    if let Outcome::Passed(passed) = WORLD.authenticator.authenticate(&request, context, Wait::No) {
        assert!(passed.token.is_none(), "{data:?} was believed");
    }
});
