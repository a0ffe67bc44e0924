//! What a client holds of each type, over any number of streams. No I/O.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use tracing::{debug, error, warn};

use ambit_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status,
};

use super::{ReceivedResource, Rejection, ResourceSink, TypeMode, TypeSub};

/// The client half of delta ADS, `ztunnel-contract` 4.1.
///
/// [`on_open`](Self::on_open) starts each stream; what is held survives it, so
/// that the control plane sends only what changed meanwhile.
#[derive(Debug)]
pub struct Session {
    node: Node,
    types: Vec<TypeState>,
}

#[derive(Debug)]
struct TypeState {
    sub: TypeSub,
    /// Name to version of what is applied.
    held: HashMap<String, String>,
    /// Names asked for, without an applied answer.
    pending: BTreeSet<String>,
    /// A response of this type was taken whole.
    acked: bool,
}

/// What a response leads to.
#[derive(Debug)]
pub struct Reply {
    /// The ACK or NACK to send.
    pub request: DeltaDiscoveryRequest,
    /// Names, aliases and absences that the response settled, of types asked
    /// for on demand.
    pub settled: HashSet<String>,
}

impl Session {
    /// A client that holds nothing.
    pub fn new(node: Node, types: Vec<TypeSub>) -> Self {
        let state = |sub| TypeState {
            sub,
            held: HashMap::new(),
            pending: BTreeSet::new(),
            acked: false,
        };
        Self {
            node,
            types: types.into_iter().map(state).collect(),
        }
    }

    /// A stream has opened: the first request of each type.
    pub fn on_open(&self) -> Vec<DeltaDiscoveryRequest> {
        self.types.iter().map(|t| t.first(&self.node)).collect()
    }

    /// A response arrived: applies it and says what to answer.
    pub fn on_response(
        &mut self,
        response: DeltaDiscoveryResponse,
        sink: &mut dyn ResourceSink,
    ) -> Reply {
        let mut request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        let known = self.types.iter_mut();
        let Some(state) = known
            .into_iter()
            .find(|t| t.sub.type_url == response.type_url)
        else {
            error!(type_url = %response.type_url, "response of a type that was never asked for");
            return Reply {
                request,
                settled: HashSet::new(),
            };
        };
        let (settled, rejected) = state.apply(response, sink);
        if rejected.is_empty() {
            state.acked = true;
        } else {
            request.error_detail = Some(nack(&state.sub.type_url, &rejected));
        }
        Reply { request, settled }
    }

    /// Somebody needs a name of an on-demand type. The request to send if a
    /// stream is open; `None` if it was sent before, or the type isn't on
    /// demand.
    pub fn on_demand(&mut self, type_url: &str, name: &str) -> Option<DeltaDiscoveryRequest> {
        let state = self
            .types
            .iter_mut()
            .find(|t| t.sub.type_url == type_url && t.sub.mode == TypeMode::OnDemand)?;
        state
            .pending
            .insert(name.to_owned())
            .then(|| DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                resource_names_subscribe: vec![name.to_owned()],
                ..Default::default()
            })
    }

    /// Every wildcard type has been taken whole at least once.
    pub fn is_ready(&self) -> bool {
        self.types
            .iter()
            .all(|t| t.acked || t.sub.mode == TypeMode::OnDemand)
    }

    /// Name to version of what is applied of a type.
    pub fn held(&self, type_url: &str) -> Option<&HashMap<String, String>> {
        let state = self.types.iter().find(|t| t.sub.type_url == type_url)?;
        Some(&state.held)
    }
}

impl TypeState {
    fn first(&self, node: &Node) -> DeltaDiscoveryRequest {
        let star = || vec!["*".to_owned()];
        let (subscribe, unsubscribe) = match self.sub.mode {
            TypeMode::Wildcard => (Vec::new(), Vec::new()),
            // Both at once: subscribed to nothing yet, and not wildcard.
            TypeMode::OnDemand => (star(), star()),
        };
        let pending = self
            .pending
            .iter()
            .map(|name| (name.clone(), String::new()));
        let held = self.held.iter().map(|(n, v)| (n.clone(), v.clone()));
        DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: self.sub.type_url.clone(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: pending.chain(held).collect(),
            ..Default::default()
        }
    }

    fn apply(
        &mut self,
        response: DeltaDiscoveryResponse,
        sink: &mut dyn ResourceSink,
    ) -> (HashSet<String>, Vec<Rejection>) {
        let mut changed = Vec::with_capacity(response.resources.len());
        let mut rejected = Vec::new();
        let mut settled = HashSet::new();
        let mut versions = Vec::with_capacity(response.resources.len());
        for resource in response.resources {
            let aliases = self.note(&resource, &mut settled);
            match received(&self.sub.type_url, resource) {
                Ok(resource) => {
                    let version = resource.version.clone();
                    versions.push((resource.name.clone(), version, aliases));
                    changed.push(resource);
                }
                Err(rejection) => rejected.push(rejection),
            }
        }
        debug!(
            type_url = self.sub.type_url,
            changed = changed.len(),
            removed = response.removed_resources.len(),
            "response"
        );
        for name in &response.removed_resources {
            self.held.remove(name);
            self.pending.remove(name);
            if self.sub.mode == TypeMode::OnDemand {
                settled.insert(name.clone());
            }
        }
        rejected.extend(sink.apply(&self.sub.type_url, changed, response.removed_resources));
        let refused: HashSet<&str> = rejected.iter().map(|r| r.name.as_str()).collect();
        for (name, version, aliases) in versions {
            if refused.contains(name.as_str()) {
                continue; // what is held stays, and is sent again after a reconnect
            }
            self.pending.remove(&name);
            for alias in aliases {
                self.pending.remove(&alias);
            }
            self.held.insert(name, version);
        }
        (settled, rejected)
    }

    fn note(&self, resource: &Resource, settled: &mut HashSet<String>) -> Vec<String> {
        if self.sub.mode != TypeMode::OnDemand {
            return Vec::new();
        }
        settled.insert(resource.name.clone());
        settled.extend(resource.aliases.iter().cloned());
        resource.aliases.clone()
    }
}

fn received(type_url: &str, resource: Resource) -> Result<ReceivedResource, Rejection> {
    let reject = |name: &str, reason: &str| Rejection {
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    let Some(any) = resource.resource else {
        return Err(reject(&resource.name, "resource without a body"));
    };
    if any.type_url != type_url {
        let reason = format!("body is a {}", any.type_url);
        return Err(reject(&resource.name, &reason));
    }
    Ok(ReceivedResource {
        name: resource.name,
        version: resource.version,
        body: Bytes::from(any.value),
    })
}

fn nack(type_url: &str, rejected: &[Rejection]) -> Status {
    let reasons: Vec<String> = rejected
        .iter()
        .map(|r| format!("{}: {}", r.name, r.reason))
        .collect();
    let message = reasons.join("; ");
    warn!(type_url, message, "resources rejected");
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

const INVALID_ARGUMENT: i32 = 3;

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
