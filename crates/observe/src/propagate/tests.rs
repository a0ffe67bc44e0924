use super::*;

const CHANCE: Chance = Chance {
    id: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
    trace: 0xaaaa,
    span: 0xbbbb,
    sample: u32::MAX / 2,
};

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn percent(percent: f64) -> Sampling {
    Sampling {
        percent,
        by_request_id: true,
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

#[test]
fn every_form_of_a_parent() {
    let w3c = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
    let cases: [(HeaderMap, Option<Option<bool>>); 12] = [
        (headers(&[("traceparent", &w3c("01"))]), Some(Some(true))),
        (headers(&[("traceparent", &w3c("00"))]), Some(Some(false))),
        (headers(&[("traceparent", &w3c("01-x"))]), None),
        (
            headers(&[("traceparent", &w3c("01").replace("00-", "ff-"))]),
            None,
        ),
        (headers(&[("traceparent", &w3c("01").to_uppercase())]), None),
        (
            headers(&[("traceparent", &w3c("01")), ("traceparent", &w3c("01"))]),
            None,
        ),
        (
            headers(&[("traceparent", &format!("00-{}-{SPAN}-01", "0".repeat(32)))]),
            None,
        ),
        (
            headers(&[("b3", &format!("{TRACE}-{SPAN}-1"))]),
            Some(Some(true)),
        ),
        (headers(&[("b3", &format!("{TRACE}-{SPAN}"))]), Some(None)),
        (headers(&[("b3", "0")]), None),
        (
            headers(&[
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", SPAN),
                ("x-b3-sampled", "0"),
            ]),
            Some(Some(false)),
        ),
        (
            headers(&[
                ("x-b3-traceid", "a3ce929d0e0e4736"),
                ("x-b3-spanid", SPAN),
                ("x-b3-flags", "1"),
            ]),
            Some(Some(true)),
        ),
    ];
    for (headers, want) in cases {
        assert_eq!(
            extract(&headers).map(|parent| parent.sampled),
            want,
            "{headers:?}"
        );
    }
}

#[test]
fn a_request_without_anything() {
    let mut request = headers(&[]);
    let context = begin(&mut request, percent(0.0), CHANCE);
    assert!(!context.sampled && context.parent.is_none());
    let id = request[REQUEST_ID].to_str().unwrap();
    assert_eq!(id, "01234567-89ab-4def-8123-456789abcdef");
    let mut request = headers(&[]);
    assert!(begin(&mut request, percent(100.0), CHANCE).sampled);
    assert_eq!(&request[REQUEST_ID].to_str().unwrap()[14..15], "9");
}

#[test]
fn who_decides_about_sampling() {
    let sampled = "01234567-89ab-9def-8123-456789abcdef";
    let w3c = format!("00-{TRACE}-{SPAN}-00");
    let cases = [
        // The caller, before the id and the percentage.
        (
            headers(&[("traceparent", &w3c), ("x-request-id", sampled)]),
            100.0,
            false,
        ),
        (headers(&[("b3", "1")]), 0.0, true),
        // The id, before the percentage.
        (headers(&[("x-request-id", sampled)]), 0.0, true),
        (headers(&[("x-request-id", "not-a-uuid-at-9")]), 0.0, false),
        (
            headers(&[("x-request-id", "01234567-89ab-4def-8123-456789abcdef")]),
            51.0,
            true,
        ),
        (headers(&[]), 49.0, false),
    ];
    for (mut headers, share, want) in cases {
        let before = headers.get(REQUEST_ID).cloned();
        assert_eq!(
            begin(&mut headers, percent(share), CHANCE).sampled,
            want,
            "{headers:?}"
        );
        assert!(
            before.is_none() || headers.get(REQUEST_ID) == before.as_ref(),
            "kept"
        );
    }
}

#[test]
fn what_the_next_hop_gets() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let came = [
        ("traceparent", parent.as_str()),
        ("tracestate", "a=b"),
        ("b3", "1"),
    ];
    let begun = || {
        let mut request = headers(&came);
        let context = begin(&mut request, percent(0.0), CHANCE);
        (request, context)
    };
    let (mut request, context) = begun();
    inject(&mut request, Propagation::W3c, &context, context.span);
    assert_eq!(
        request["traceparent"],
        format!("00-{TRACE}-000000000000bbbb-01")
    );
    assert_eq!(request["tracestate"], "a=b");
    let (mut request, context) = begun();
    inject(&mut request, Propagation::B3, &context, SpanId(1));
    assert_eq!(request["x-b3-traceid"], TRACE);
    assert_eq!(request["x-b3-spanid"], "0000000000000001");
    assert_eq!(request["x-b3-parentspanid"], SPAN);
    assert_eq!(request["x-b3-sampled"], "1");
    assert!(!request.contains_key("b3"));
    let (mut request, context) = begun();
    inject(&mut request, Propagation::Off, &context, context.span);
    assert_eq!(request["traceparent"], parent, "as it came");
    let (mut request, context) = begun();
    request.insert("tracestate", "x".repeat(5_000).parse().unwrap());
    inject(&mut request, Propagation::Both, &context, context.span);
    assert!(!request.contains_key("tracestate"), "bounded");
}
