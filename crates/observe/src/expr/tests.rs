use super::*;
use crate::tests::Request;

#[test]
fn expressions_over_a_request() {
    let mut request = Request::new();
    request.headers.insert("x-user", "bob".parse().unwrap());
    let cases = [
        ("response.code >= 200 && response.code < 300", true),
        ("response.code == 404 || request.method == 'GET'", true),
        ("!(request.method == \"GET\")", false),
        ("request.headers['X-User'] == 'bob'", true),
        ("request.headers['absent'] == 'x'", false),
        ("request.headers['absent'] != 'x'", true),
        ("has(request.headers['absent'])", false),
        (
            "has(request.headers['absent']) || has(request.headers['x-user'])",
            true,
        ),
        (
            "request.url_path.startsWith('/it') && request.url_path.endsWith('ms')",
            true,
        ),
        ("request.path.contains('?q=')", true),
        ("request.path.matches('^/it.*1$')", true),
        ("response.code in [200, 201]", true),
        ("request.method in ['POST']", false),
        ("connection.mtls", true),
        ("connection.requested_server_name == null", true),
        ("response.grpc_status == 0", false),
        ("response.size + 1 == 43", true),
        (
            "size(request.method) == 3 && request.method.size() > 2",
            true,
        ),
        ("response.code > 400 ? false : true", true),
        ("string(response.code) == '200' && int('5') == 5", true),
        ("-1 < 0 && 1.5 > 1", true),
        ("request.duration < 1.0", true),
        ("xds.cluster_name.contains('inbound-vip')", true),
        ("request.headers['absent'] < 'x'", false),
        ("!(request.headers['absent'] < 'x')", false),
        ("false && request.headers['absent'].contains('x')", false),
        ("true || request.headers['absent'].contains('x')", true),
    ];
    for (text, want) in cases {
        let expression: Expression = text.parse().unwrap();
        assert_eq!(expression.holds(&request.record()), want, "{text}");
    }
}

#[test]
fn what_isnt_known_is_refused_by_name() {
    let cases = [
        (
            "request.nope == 1",
            "request.nope is not an attribute that this proxy has",
        ),
        ("nope(1)", "nope() is not a function that this proxy has"),
        (
            "request.path.split('/')",
            "split() is not a function that this proxy has",
        ),
        ("1 ==", "unexpected \"\" at 4"),
        ("1 1", "unexpected \"1\" at 2"),
        ("'open", "unexpected \"'\" at 0"),
        (
            "request.path.matches('(')",
            "\"(\" is not a regular expression of RE2",
        ),
        ("1 @ 2", "unexpected \"@\" at 2"),
    ];
    for (text, want) in cases {
        let error = text.parse::<Expression>().unwrap_err();
        assert_eq!(error.to_string(), want, "{text}");
    }
    let deep = "(".repeat(1_000);
    assert_eq!(
        deep.parse::<Expression>().unwrap_err(),
        InvalidExpression::TooDeep
    );
    let long = "1".repeat(5_000);
    assert_eq!(
        long.parse::<Expression>().unwrap_err(),
        InvalidExpression::TooLong
    );
    assert!("!".repeat(1_000).parse::<Expression>().is_err());
    assert!("-".repeat(1_000).parse::<Expression>().is_err());
}
