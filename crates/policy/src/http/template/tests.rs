use super::*;

#[test]
fn templates_match_whole_paths() {
    let cases = [
        ("/foo/{*}", "/foo/bar", true),
        ("/foo/{*}", "/foo/", false),
        ("/foo/{*}", "/foo/bar/baz", false),
        ("/foo/{*}", "/foo/bar/", false),
        ("/foo/{**}/", "/foo/bar/", true),
        ("/foo/{**}/", "/foo/bar/baz/", true),
        ("/foo/{**}/", "/foo//", true),
        ("/foo/{**}/", "/foo/bar", false),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/a/b", true),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar", false),
        ("/{*}", "/a", true),
        ("/{**}", "/", true),
        ("/a.b/{*}", "/aXb/c", false),
        ("/foo/{*}", "/foo/*", true),
        ("/foo/{*}", "/foo/%2a|\"", true),
    ];
    for (template, path, want) in cases {
        let parsed = PathTemplate::parse(template).unwrap();
        assert_eq!(parsed.matches(path), want, "{template} on {path}");
        assert_eq!(parsed.to_string(), template);
    }
}

#[test]
fn what_isnt_a_template_is_refused() {
    let cases = [
        ("foo/{*}", InvalidTemplate::Relative),
        ("/foo/{*}.txt", InvalidTemplate::PartOfSegment),
        ("/{**}/foo/{*}", InvalidTemplate::AfterRest),
        ("/{**}/{**}", InvalidTemplate::AfterRest),
        ("/*/baz/{*}", InvalidTemplate::Wildcard),
        ("/foo", InvalidTemplate::NoOperator),
    ];
    for (template, why) in cases {
        assert_eq!(PathTemplate::parse(template), Err(why), "{template}");
    }
}
