//! What a call says: the environment and the standard input of CNI.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A call that fails, in CNI's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: u32,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(IO_FAILURE, message)
    }

    pub(crate) fn again(message: impl Into<String>) -> Self {
        Self::new(TRY_AGAIN_LATER, message)
    }

    pub(crate) fn to_json(&self, version: &str) -> String {
        let Self { code, message } = self;
        json!({"cniVersion": version, "code": code, "msg": format!("ambit-cni: {message}")})
            .to_string()
    }
}

/// The plugin's entry, with what the runtime adds to it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    /// The agent's socket.
    #[serde(default = "default_socket")]
    pub(crate) socket: PathBuf,
    /// Namespaces of which no pod is enrolled.
    #[serde(default)]
    pub(crate) exclude_namespaces: Vec<String>,
    /// The agent's own namespace.
    #[serde(default)]
    pub(crate) agent_namespace: String,
    /// How the names of the agent's own pods begin.
    #[serde(default)]
    pub(crate) agent_prefix: String,
    #[serde(default)]
    prev_result: Option<Value>,
}

impl Config {
    pub(crate) fn read(input: &str) -> Result<Self, Failure> {
        serde_json::from_str(input)
            .map_err(|error| Failure::new(UNDECODABLE, format!("the configuration: {error}")))
    }

    /// What the plugins before this one made.
    pub(crate) fn previous(&self) -> Result<&Value, Failure> {
        self.prev_result.as_ref().ok_or_else(|| {
            let why = "no prevResult: this plugin only works behind another one";
            Failure::new(INVALID_CONFIGURATION, why)
        })
    }

    /// The addresses that the plugins before this one gave.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self
            .prev_result
            .as_ref()
            .and_then(|result| result.get("ips"));
        let bare = |ip: &Value| -> Option<IpAddr> {
            ip.get("address")?.as_str()?.split('/').next()?.parse().ok()
        };
        let ips = ips.and_then(Value::as_array).into_iter().flatten();
        ips.filter_map(bare).collect()
    }
}

/// Which pod a call is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) container: String,
    pub(crate) netns: String,
    /// Namespace and name; none if it isn't Kubernetes that calls.
    pub(crate) pod: Option<(String, String)>,
    pub(crate) uid: Option<String>,
}

impl Invocation {
    pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let arguments = variable("CNI_ARGS").unwrap_or_default();
        let argument = |wanted: &str| {
            let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(key, value)| *key == wanted && !value.is_empty())
                .map(|(_, value)| value.to_owned())
                .next()
        };
        let container = variable("CNI_CONTAINERID").filter(|id| !id.is_empty());
        let container = container
            .ok_or_else(|| Failure::new(INVALID_ENVIRONMENT, "CNI_CONTAINERID is missing"))?;
        Ok(Self {
            container,
            netns: variable("CNI_NETNS").unwrap_or_default(),
            pod: argument("K8S_POD_NAMESPACE").zip(argument("K8S_POD_NAME")),
            uid: argument("K8S_POD_UID"),
        })
    }
}

/// The version that the caller speaks.
pub(crate) fn version_of(input: &str) -> &str {
    #[derive(Deserialize)]
    struct Versioned<'a> {
        #[serde(rename = "cniVersion")]
        version: &'a str,
    }
    serde_json::from_str::<Versioned<'_>>(input).map_or(NEWEST, |versioned| versioned.version)
}

/// The answer to `VERSION`.
pub(crate) fn versions(spoken: &str) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions<'a> {
        cni_version: &'a str,
        supported_versions: [&'static str; 5],
    }
    let versions = Versions {
        cni_version: spoken,
        supported_versions: ["0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST],
    };
    serde_json::to_string(&versions).unwrap_or_default()
}

fn default_socket() -> PathBuf {
    PathBuf::from("/var/run/istio-cni/pluginevent.sock")
}

const NEWEST: &str = "1.1.0";
/// Error codes of the CNI specification.
pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const UNDECODABLE: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;
