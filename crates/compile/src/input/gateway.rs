//! What is read of Gateways and GatewayClasses that are about waypoints (`control-plane-contract` 5.1, 5.4).

use std::sync::Arc;

use ambit_kube::core::LabelSelector;
use ambit_kube::gateway::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From,
    GatewayListenersAllowedRoutesNamespacesSelector as NamespaceSelector,
};
use ambit_kube::gateway::{Gateway as GatewayObject, GatewayClass as ClassObject};
use ambit_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

use super::{Labels, Selector};
use crate::waypoint::FOR_ACCOUNT;

/// A Gateway.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gateway {
    pub(crate) class: Arc<str>,
    pub(crate) labels: Labels,
    annotations: Labels,
    /// Of its status: type and value.
    pub(crate) addresses: Box<[(Box<str>, Box<str>)]>,
    pub(crate) listeners: Box<[Listener]>,
    /// `istio.io/for-service-account`.
    pub(crate) for_account: Option<Arc<str>>,
}

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listener {
    pub(crate) name: Box<str>,
    pub(crate) port: u16,
    pub(crate) protocol: Box<str>,
    pub(crate) scope: ListenerScope,
}

/// Which namespaces a listener admits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ListenerScope {
    All,
    Same,
    Selected(Selector),
    /// A selector that is missing or can't be used: none.
    None,
}

/// A GatewayClass.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GatewayClass {
    pub(crate) controller: Box<str>,
    pub(crate) labels: Labels,
    annotations: Labels,
}

impl Gateway {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)
    }

    /// The name of its Service and Deployment.
    pub(crate) fn service_name<'a>(&'a self, name: &'a str) -> &'a str {
        filled(self.annotation(NAME_OVERRIDE)).unwrap_or(name)
    }

    /// The name of its ServiceAccount.
    pub(crate) fn account<'a>(&'a self, name: &'a str) -> &'a str {
        filled(self.annotation(SERVICE_ACCOUNT)).unwrap_or_else(|| self.service_name(name))
    }
}

impl GatewayClass {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)
    }
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
const SERVICE_ACCOUNT: &str = "gateway.istio.io/service-account";

/// Reading.
impl Gateway {
    pub(crate) fn new(object: &GatewayObject) -> Self {
        let meta = &object.metadata;
        let status = object.status.iter();
        let addresses = status.flat_map(|status| status.addresses.iter().flatten());
        let annotations = Labels::new(meta.annotations.as_ref());
        let addresses = addresses.filter_map(|address| {
            let kind = address.r#type.as_deref()?;
            Some((kind.into(), address.value.as_str().into()))
        });
        Self {
            class: object.spec.gateway_class_name.as_str().into(),
            labels: Labels::new(meta.labels.as_ref()),
            addresses: addresses.collect(),
            listeners: object.spec.listeners.iter().map(Listener::new).collect(),
            for_account: filled(annotations.get(FOR_ACCOUNT)).map(Into::into),
            annotations,
        }
    }
}

impl GatewayClass {
    pub(crate) fn new(object: &ClassObject) -> Self {
        Self {
            controller: object.spec.controller_name.as_str().into(),
            labels: Labels::new(object.metadata.labels.as_ref()),
            annotations: Labels::new(object.metadata.annotations.as_ref()),
        }
    }
}

impl Listener {
    fn new(object: &GatewayListeners) -> Self {
        let routes = object.allowed_routes.as_ref();
        let namespaces = routes.and_then(|routes| routes.namespaces.as_ref());
        let scope = match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
            None | Some(From::Same) => ListenerScope::Same,
            Some(From::All) => ListenerScope::All,
            Some(From::Selector) => {
                let selector = namespaces.and_then(|namespaces| namespaces.selector.as_ref());
                let selector = selector.and_then(|selector| Selector::read(&plain(selector)));
                selector.map_or(ListenerScope::None, ListenerScope::Selected)
            }
        };
        Self {
            name: object.name.as_str().into(),
            port: u16::try_from(object.port).unwrap_or_default(),
            protocol: object.protocol.as_str().into(),
            scope,
        }
    }
}

fn plain(selector: &NamespaceSelector) -> LabelSelector {
    let expressions = selector.match_expressions.as_ref();
    LabelSelector {
        match_labels: selector.match_labels.clone(),
        match_expressions: expressions.map(|expressions| {
            let expressions = expressions.iter();
            expressions
                .map(|expression| LabelSelectorRequirement {
                    key: expression.key.clone(),
                    operator: expression.operator.clone(),
                    values: expression.values.clone(),
                })
                .collect()
        }),
    }
}
