//! Settings as a person reads them in a log: `pod.name=w ports.hbone=15008`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Settings;

/// Every setting as `path=value`; what is unset is left out.
pub(crate) fn shown(settings: &Settings) -> String {
    let mut words = Vec::new();
    match serde_json::to_value(settings) {
        Ok(value) => add(&mut words, "", &value),
        Err(error) => words.push(format!("error={error}")),
    }
    words.join(" ")
}

fn add(words: &mut Vec<String>, path: &str, value: &Value) {
    match value {
        Value::Object(map) => match duration(map) {
            Some(duration) => words.push(format!("{path}={duration:?}")),
            None => {
                for (name, value) in map {
                    let dot = if path.is_empty() { "" } else { "." };
                    add(words, &format!("{path}{dot}{name}"), value);
                }
            }
        },
        Value::Array(all) => {
            let all: Vec<_> = all.iter().map(plain).collect();
            if all.iter().any(|one| !one.is_empty()) {
                words.push(format!("{path}={}", all.join(",")));
            }
        }
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        value => words.push(format!("{path}={}", plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What serde makes of a duration.
fn duration(map: &Map<String, Value>) -> Option<Duration> {
    let part = |name| map.get(name).and_then(Value::as_u64);
    let (secs, nanos) = (part("secs")?, part("nanos")?);
    (map.len() == 2).then(|| Duration::new(secs, u32::try_from(nanos).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use ambit_runtime::MapEnv;

    use super::*;

    #[test]
    fn settings_are_words_without_quotes_or_braces() {
        let env = MapEnv::from_iter([
            ("POD_NAME", "w-1"),
            ("POD_NAMESPACE", "shop"),
            ("SERVICE_ACCOUNT", "w"),
            ("INSTANCE_IP", "10.0.0.1"),
            ("AMBIT_HANDSHAKE_TIMEOUT", "1500ms"),
        ]);
        let text = shown(&Settings::from_env(&env, 2).unwrap());
        for word in [
            "pod.name=w-1",
            "pod.ip=10.0.0.1",
            "secret_ttl=86400s",
            "limits.handshake=1.5s",
            "ports.hbone=15008",
            "upgrades=websocket",
        ] {
            assert!(text.split(' ').any(|one| one == word), "{word}: {text}");
        }
        assert!(!text.contains(['"', '{', '[']), "{text}");
        // Unset, and empty.
        assert!(
            !text.contains("alt_hostname") && !text.contains("network="),
            "{text}"
        );
    }
}
