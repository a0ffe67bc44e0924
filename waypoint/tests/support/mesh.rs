//! Shortcuts: a service with its endpoints, all published.

use std::net::{IpAddr, SocketAddr};

use ambit_proto::waypoint as pb;
use anyhow::Result;
use prost::Message;

use super::app::{self, App, Handler};
use super::{World, resources as res};

/// A service behind the waypoint.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) vip: SocketAddr,
    pub(crate) apps: Vec<App>,
}

impl World {
    /// A service on port 80 with one endpoint that echoes, over HBONE.
    pub(crate) async fn service(
        &self,
        name: &'static str,
        protocol: pb::Protocol,
    ) -> Result<Service> {
        let ip = self.address();
        let app = app::echo(&self.scope, ip, name).await?;
        let id = format!("spiffe://cluster.local/ns/shop/sa/{name}");
        app::hbone(&self.scope, &self.authority, ip, &id)?;
        let endpoint = res::endpoint(name, ip, Some(name));
        Ok(self.publish(name, protocol, vec![app], &[endpoint]))
    }

    /// A service on port 80 with one plain endpoint of any behaviour.
    pub(crate) async fn misbehaving(
        &self,
        name: &'static str,
        handler: Handler,
    ) -> Result<Service> {
        let ip = self.address();
        let app = app::serve(&self.scope, ip, handler).await?;
        let endpoint = res::endpoint(name, ip, None);
        Ok(self.publish(name, pb::Protocol::Http, vec![app], &[endpoint]))
    }

    /// A service on port 80 with one plain endpoint that is a mere socket.
    pub(crate) async fn raw(
        &self,
        name: &'static str,
        script: super::raw::Script,
    ) -> Result<(Service, super::raw::Seen)> {
        let ip = self.address();
        let seen = super::raw::serve(&self.scope, ip, script).await?;
        let endpoint = res::endpoint(name, ip, None);
        let service = self.publish(name, pb::Protocol::Http, vec![], &[endpoint]);
        Ok((service, seen))
    }

    /// Publishes a service at a new VIP.
    pub(crate) fn publish(
        &self,
        name: &'static str,
        protocol: pb::Protocol,
        apps: Vec<App>,
        endpoints: &[pb::Endpoint],
    ) -> Service {
        let vip = self.address();
        let backend = res::backend_message(name, &[(80, protocol)]);
        self.publish_with(name, vip, &backend, protocol, endpoints);
        Service {
            name,
            vip: SocketAddr::new(vip, 80),
            apps,
        }
    }

    /// The same with a backend of one's own.
    pub(crate) fn publish_with(
        &self,
        name: &str,
        vip: IpAddr,
        backend: &pb::Backend,
        protocol: pb::Protocol,
        endpoints: &[pb::Endpoint],
    ) {
        let key = res::key(name);
        let control = &self.control;
        control.publish(res::ENDPOINTS, &[(&key, res::endpoints(endpoints))]);
        control.publish(res::BACKEND, &[(&key, backend.encode_to_vec())]);
        let frontend = res::frontend(name, vip, &[(80, protocol)]);
        control.publish(res::FRONTEND, &[(&key, frontend)]);
    }

    /// Sets the one route of a frontend.
    pub(crate) fn route(&self, service: &Service, rules: Vec<pb::Rule>) {
        let name = format!("HTTPRoute/shop/{}", service.name);
        let route = res::route(service.name, rules);
        self.control.publish(res::ROUTE, &[(&name, route)]);
    }

    /// Waits until a request gets the wanted status.
    pub(crate) async fn settled(&self, to: SocketAddr, path: &str, status: u16) -> Result<()> {
        ambit_testkit::eventually("settled", async || {
            let answer = self.client.get(to, path).await?;
            anyhow::ensure!(answer.status() == status, "{answer:?}");
            Ok(())
        })
        .await
    }
}
