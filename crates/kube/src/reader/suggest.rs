//! "Did you mean".

/// The candidate nearest to a misspelt word, if one is near enough to be meant.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let folded = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::osa_distance(&folded, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= tolerance(word.len().min(candidate.len())))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many slips a word of this length may have.
fn tolerance(length: usize) -> usize {
    match length {
        0..=2 => 0,
        3..=5 => 1,
        6..=11 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_seen_and_strangers_are_not() {
        let fields = [
            "principals",
            "notPrincipals",
            "namespaces",
            "ipBlocks",
            "to",
        ];
        for (word, want) in [
            ("principels", Some("principals")),
            ("Principals", Some("principals")),
            ("notprincipal", Some("notPrincipals")),
            ("ipBlock", Some("ipBlocks")),
            ("ot", None),
            ("methods", None),
        ] {
            assert_eq!(nearest(word, fields), want, "{word}");
        }
    }
}
