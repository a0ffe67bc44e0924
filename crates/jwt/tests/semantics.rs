//! The semantics table of RequestAuthentication, one test per case: from the
//! wire form and tokens that are signed here to the outcome.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod ring;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ambit_jwt::{
    Authentication, Authenticator, Context, JwtRequest, KeyCache, Now, Outcome, TokenCache, Wait,
};
use ambit_proto::waypoint as pb;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use ring::{NOW, encode, jwks, sign};

static CASES: LazyLock<Table> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("cases/jwt.yaml")).unwrap());

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    clause: String,
    rules: Option<Vec<Rule>>,
    #[serde(default)]
    tokens: Vec<Token>,
    #[serde(default)]
    req: Req,
    want: String,
    #[serde(default)]
    out: BTreeMap<String, Option<String>>,
    keeps: Option<String>,
    path: Option<String>,
    #[serde(default)]
    lists: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rule {
    issuer: Option<String>,
    audiences: Vec<String>,
    keys: Option<Vec<String>>,
    uri: Option<String>,
    unusable: bool,
    from_headers: Vec<(String, String)>,
    from_params: Vec<String>,
    from_cookies: Vec<String>,
    forward: bool,
    claims: Vec<(String, String)>,
    space_delimited: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Token {
    key: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    claims: Map<String, Value>,
    drop: Vec<String>,
    header: Map<String, Value>,
    drop_header: Vec<String>,
    exp_in: Option<i64>,
    nbf_in: Option<i64>,
    raw: Option<String>,
    raw_header: Option<String>,
    raw_payload: Option<String>,
    swap: Option<Map<String, Value>>,
    tamper: bool,
    pad: usize,
    deep: usize,
    at: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Req {
    method: Option<String>,
    path: Option<String>,
    headers: Vec<(String, String)>,
}

impl Token {
    fn write(&self) -> String {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let key = self.key.as_deref().unwrap_or("rsa");
        let alg = self.alg.as_deref().unwrap_or("RS256");
        let mut header = Map::new();
        header.insert("alg".to_owned(), json!(alg));
        match self.kid.as_deref() {
            Some("") => {}
            kid => {
                header.insert("kid".to_owned(), json!(kid.unwrap_or(key)));
            }
        }
        header.extend(self.header.clone());
        header.retain(|name, _| !self.drop_header.contains(name));
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), json!("https://iss.example"));
        claims.insert("sub".to_owned(), json!("alice"));
        let now = i64::try_from(NOW.as_secs()).unwrap();
        claims.insert("exp".to_owned(), json!(now + self.exp_in.unwrap_or(300)));
        if let Some(nbf) = self.nbf_in {
            claims.insert("nbf".to_owned(), json!(now + nbf));
        }
        if self.pad > 0 {
            claims.insert("pad".to_owned(), json!("x".repeat(self.pad)));
        }
        claims.extend(self.claims.clone());
        claims.retain(|name, _| !self.drop.contains(name));
        let header = match &self.raw_header {
            Some(raw) => raw.clone(),
            None => Value::Object(header).to_string(),
        };
        let payload = match &self.raw_payload {
            Some(raw) => raw.clone(),
            None if self.deep > 0 => format!(
                "{{\"iss\":\"https://iss.example\",\"d\":{}{}}}",
                "[".repeat(self.deep),
                "]".repeat(self.deep)
            ),
            None => Value::Object(claims.clone()).to_string(),
        };
        let signed = format!(
            "{}.{}",
            encode(header.as_bytes()),
            encode(payload.as_bytes())
        );
        let mut signature = sign(key, alg, signed.as_bytes());
        if self.tamper {
            signature[10] ^= 1;
        }
        match &self.swap {
            Some(more) => {
                claims.extend(more.clone());
                let payload = Value::Object(claims).to_string();
                let header = signed.split('.').next().unwrap();
                format!(
                    "{header}.{}.{}",
                    encode(payload.as_bytes()),
                    encode(&signature)
                )
            }
            None => format!("{signed}.{}", encode(&signature)),
        }
    }
}

fn wire(rules: &[Rule]) -> pb::Authentication {
    use pb::jwt_rule::Keys;
    let all = ["rsa", "p256", "p384", "p521", "ed"];
    let rule = |one: &Rule| pb::JwtRule {
        issuer: one
            .issuer
            .clone()
            .unwrap_or_else(|| "https://iss.example".to_owned()),
        audiences: one.audiences.clone(),
        keys: Some(match (&one.uri, &one.keys) {
            _ if one.unusable => Keys::Unusable(pb::Invalid {
                reason: "why".to_owned(),
                status: 401,
            }),
            (Some(uri), _) => Keys::JwksUri(uri.clone()),
            (None, Some(keys)) => {
                let keys: Vec<_> = keys.iter().map(String::as_str).collect();
                Keys::InlineJwks(jwks(&keys))
            }
            (None, None) => Keys::InlineJwks(jwks(&all)),
        }),
        from_headers: one
            .from_headers
            .iter()
            .map(|(name, prefix)| pb::TokenHeader {
                name: name.clone(),
                prefix: prefix.clone(),
            })
            .collect(),
        from_params: one.from_params.clone(),
        from_cookies: one.from_cookies.clone(),
        forward_original_token: one.forward,
        output_claims: one
            .claims
            .iter()
            .map(|(header, claim)| pb::ClaimHeader {
                header: header.clone(),
                claim: claim.clone(),
            })
            .collect(),
        space_delimited_claims: one.space_delimited.clone(),
        ..pb::JwtRule::default()
    };
    pb::Authentication {
        origin: Some(pb::Origin {
            namespace: "shop".to_owned(),
            name: "jwt".to_owned(),
            ..pb::Origin::default()
        }),
        rules: rules.iter().map(rule).collect(),
        ..pb::Authentication::default()
    }
}

/// The request's headers and path with the tokens in their places.
fn place(case: &Case) -> (HeaderMap, String) {
    let mut headers = HeaderMap::new();
    let mut path = case.req.path.clone().unwrap_or_else(|| "/p".to_owned());
    let mut put = |name: &str, value: String| {
        headers.append(
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_str(&value).unwrap(),
        );
    };
    for token in &case.tokens {
        let text = token.write();
        let at = token
            .at
            .as_deref()
            .unwrap_or("header:authorization:Bearer ");
        let mut parts = at.splitn(3, ':');
        match (parts.next().unwrap(), parts.next(), parts.next()) {
            ("header", Some(name), Some(prefix)) => put(name, format!("{prefix}{text}")),
            ("param", Some(name), _) => {
                path.push(if path.contains('?') { '&' } else { '?' });
                path.push_str(&format!("{name}={text}"));
            }
            ("cookie", Some(name), _) => put("cookie", format!("{name}={text}")),
            ("none", ..) => {}
            other => panic!("{other:?}"),
        }
    }
    for (name, value) in &case.req.headers {
        put(name, value.clone());
    }
    (headers, path)
}

fn run(name: &str) {
    let case = CASES.cases.iter().find(|case| case.name == name).unwrap();
    assert!(!case.clause.is_empty(), "a case cites its clause");
    let default = [Rule::default()];
    let rules = case.rules.as_deref().unwrap_or(&default);
    let object = Arc::new(Authentication::try_from(wire(rules)).unwrap());
    let authenticator = Authenticator::bind([&object], None, 80, None);
    let (keys, tokens) = (KeyCache::default(), TokenCache::new(16));
    let now = Now {
        mono: Instant::now(),
        unix: NOW,
    };
    keys.retain(authenticator.sources().cloned(), now.mono);
    let (mut headers, path) = place(case);
    let before = headers.clone();
    let request = JwtRequest {
        method: case.req.method.as_deref().unwrap_or("GET"),
        scheme: "http",
        host: "cart",
        path_and_query: &path,
        headers: &before,
    };
    let ctx = Context {
        keys: &keys,
        tokens: &tokens,
        now,
    };
    let outcome = authenticator.authenticate(&request, ctx, Wait::May);
    let passed = match outcome {
        Outcome::Pending(_) => {
            assert_eq!(case.want, "pending");
            let late = authenticator.authenticate(&request, ctx, Wait::No);
            assert!(matches!(late, Outcome::Rejected(_)), "closed: {late:?}");
            return;
        }
        Outcome::Rejected(rejection) => {
            let got = format!("{} {}", rejection.status(), rejection.text());
            assert_eq!(got, case.want);
            assert_eq!(
                rejection.www_authenticate,
                "Bearer realm=\"http://cart/p\", error=\"invalid_token\""
            );
            return;
        }
        Outcome::Passed(passed) => passed,
    };
    let got = match &passed.token {
        None => "anonymous".to_owned(),
        Some(token) => token
            .principal()
            .unwrap_or_else(|| "no principal".to_owned()),
    };
    assert_eq!(got, case.want);
    // A second time from memory.
    if let Outcome::Passed(again) = authenticator.authenticate(&request, ctx, Wait::No) {
        assert_eq!(again.token.is_some(), passed.token.is_some());
    } else {
        panic!("the second time differs");
    }
    let rewritten = authenticator.apply(&passed, &mut headers, &path);
    for (name, want) in &case.out {
        let all: Vec<_> = headers
            .get_all(name.as_str())
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(
            all,
            want.iter().map(String::as_str).collect::<Vec<_>>(),
            "{name}"
        );
    }
    if let Some(name) = &case.keeps {
        assert_eq!(headers.get(name), before.get(name));
    }
    if let Some(want) = &case.path {
        assert_eq!(rewritten.as_ref(), Some(want));
    }
    for (claim, want) in &case.lists {
        let token = passed.token.as_ref().unwrap();
        assert_eq!(token.claims.get(claim), Some(&json!(want)));
    }
}

#[test]
fn a_wait_is_bounded_by_the_rules_timeout() {
    let rules = [Rule {
        uri: Some("https://iss.example/jwks".to_owned()),
        ..Rule::default()
    }];
    let object = Arc::new(Authentication::try_from(wire(&rules)).unwrap());
    let authenticator = Authenticator::bind([&object], None, 80, None);
    let source = authenticator.sources().next().unwrap();
    assert_eq!(source.timeout, Duration::from_secs(5));
}

macro_rules! cases {
    ($($case:ident,)+) => {
        $(#[test]
        fn $case() {
            run(stringify!($case));
        })+

        #[test]
        fn every_case_is_a_test() {
            let in_file: Vec<_> = CASES.cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(in_file, [$(stringify!($case)),+]);
        }
    };
}

cases! {
    no_token_is_anonymous,
    a_valid_token,
    basic_credentials_are_no_token,
    malformed,
    two_sections,
    four_sections,
    empty_token,
    not_base64,
    header_isnt_json,
    payload_isnt_json,
    payload_isnt_an_object,
    bad_signature,
    signed_by_an_unknown_key,
    another_payload_under_the_signature,
    expired,
    expired_within_the_skew,
    not_yet_valid,
    not_yet_valid_within_the_skew,
    without_expiry,
    expiry_isnt_a_number,
    negative_expiry,
    unknown_issuer,
    issuer_is_compared_exactly,
    without_issuer,
    without_subject_no_principal,
    preflight_is_not_authenticated,
    options_alone_is_no_preflight,
    too_large,
    duplicated_claim,
    duplicated_claim_deep,
    duplicated_header_member,
    deep_json,
    audience_any_of,
    audience_as_a_text,
    wrong_audience_is_403,
    no_audience_is_403,
    no_audiences_is_any,
    rs384,
    rs512,
    ps256,
    ps384,
    ps512,
    es256,
    es384,
    es512,
    es512_tampered,
    eddsa,
    hs256_with_an_oct_key,
    hs256_without_an_oct_key,
    hs256_with_the_public_key,
    none_is_refused,
    none_in_another_case,
    without_algorithm,
    algorithm_of_another_key_type,
    algorithm_of_the_jwk,
    algorithm_of_the_jwk_hit,
    critical_extension,
    unknown_kid,
    without_kid_every_key_is_tried,
    key_for_encryption_is_skipped,
    unusable_keys_are_skipped,
    no_usable_key_refuses,
    keys_that_the_compiler_refused,
    keys_from_a_metadata_address,
    keys_that_are_coming,
    nobody_waits_for_a_bad_token,
    an_unusable_issuer_leaves_others,
    scheme_ignores_case,
    default_param,
    own_header,
    own_header_with_prefix,
    only_own_locations,
    own_param,
    own_cookie,
    second_token_is_verified_too,
    second_authorization_line,
    second_param,
    two_principals_are_refused,
    two_tokens_of_one_principal,
    rule_of_the_issuer,
    any_rule_of_an_issuer,
    no_rule_of_an_issuer,
    issuer_of_another_location,
    keys_of_another_issuer,
    token_is_taken_out,
    token_stays,
    other_credentials_stay,
    param_is_taken_out,
    only_param_is_taken_out,
    cookie_is_taken_out,
    claim_to_header,
    claim_to_header_types,
    nested_claim_to_header,
    client_copy_is_removed,
    client_copy_is_removed_without_token,
    claim_with_line_breaks_is_left_out,
    scope_is_split,
    permission_is_split,
    own_claim_is_split,
}
