//! Licences and crates that may not come in.

use anyhow::{Context, Result};
use serde_json::Value;

const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "0BSD",
    "Unlicense",
    "OpenSSL",
];

/// A second crypto or HTTP stack.
const BANNED: &[&str] = &["openssl-sys", "native-tls", "reqwest"];

/// More than one version of these would be two incompatible sets of types.
const SINGLE: &[&str] = &[
    "tokio",
    "http",
    "h2",
    "hyper",
    "tower",
    "prost",
    "tonic",
    "rustls",
    "tokio-rustls",
    "aws-lc-rs",
    "serde",
];

pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let packages = metadata["packages"].as_array().context("packages")?;
    for package in packages {
        let name = package["name"].as_str().context("a name")?;
        let licence = package["license"].as_str().unwrap_or_default();
        if !acceptable(licence) {
            problems.push(format!("{name}: licence {licence:?} is not on the list"));
        }
        if BANNED.contains(&name) {
            problems.push(format!("{name}: banned, it brings a second stack"));
        }
    }
    for single in SINGLE {
        let versions = packages.iter().filter(|p| p["name"] == *single).count();
        if versions != 1 {
            problems.push(format!(
                "{single}: {versions} versions in the lock file, wanted one"
            ));
        }
    }
    Ok(problems)
}

/// An SPDX expression is acceptable if a choice of it is.
fn acceptable(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain
        .split(" OR ")
        .any(|choice| choice.split(" AND ").all(|l| ALLOWED.contains(&l.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_suffices_and_a_conjunction_needs_all() {
        assert!(acceptable("GPL-2.0 OR MIT"));
        assert!(acceptable("MIT/Apache-2.0"));
        assert!(acceptable("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!acceptable("GPL-3.0"));
        assert!(!acceptable("MIT AND GPL-3.0"));
        assert!(!acceptable(""));
    }
}
