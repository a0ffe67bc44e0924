use super::*;
use proptest::prelude::*;

fn any_match() -> impl Strategy<Value = StringMatch> {
    let text = "[ab/nsd.]{1,12}";
    prop_oneof![
        text.prop_map(|t| StringMatch::exact(t).unwrap()),
        text.prop_map(|t| StringMatch::prefix(t).unwrap()),
        text.prop_map(|t| StringMatch::suffix(t).unwrap()),
        Just(StringMatch::Presence()),
    ]
}

/// An identity, and matches cut out of its own text so that they often hold.
fn identity_and_match() -> impl Strategy<Value = (SpiffeId, StringMatch)> {
    ("[ab.]{1,4}", "[abns]{0,4}", "[abns]{0,4}").prop_flat_map(|(td, ns, sa)| {
        let id = SpiffeId::new(td, ns, sa).unwrap();
        let whole = id.principal().to_string();
        let cut = (1..=whole.len()).prop_flat_map(move |n| {
            let (head, tail) = (whole[..n].to_owned(), whole[whole.len() - n..].to_owned());
            prop_oneof![
                Just(StringMatch::prefix(head.clone()).unwrap()),
                Just(StringMatch::suffix(tail).unwrap()),
                Just(StringMatch::exact(head).unwrap()),
            ]
        });
        (Just(id), prop_oneof![any_match(), cut])
    })
}

proptest! {
    /// The comparison by parts is the comparison of the written-out text.
    #[test]
    fn parts_compare_like_the_text((id, one) in identity_and_match()) {
        let text = id.principal().to_string();
        prop_assert_eq!(principal_matches(&one, &id), text_matches(&one, &text), "{} {}", one, text);
    }
}

#[test]
fn string_matches_on_texts() {
    let exact = StringMatch::exact("shop").unwrap();
    let prefix = StringMatch::prefix("sh").unwrap();
    let suffix = StringMatch::suffix("op").unwrap();
    let presence = StringMatch::Presence();
    let cases = [
        (&exact, "shop", true),
        (&exact, "shops", false),
        (&exact, "", false),
        (&prefix, "shop", true),
        (&prefix, "s", false),
        (&prefix, "", false),
        (&suffix, "shop", true),
        (&suffix, "shops", false),
        (&suffix, "", false),
        (&presence, "x", true),
        (&presence, "", false),
    ];
    for (one, text, want) in cases {
        assert_eq!(text_matches(one, text), want, "{one} on {text:?}");
    }
}
