//! Byte strings written by hand from the field tables of the contracts, so
//! that a wrong number can't hide behind our own encoder. Each line is one
//! field: its tag, its length where it has one, its value.

use prost::Message;

use crate::{auth, discovery, security, workload};

fn decode<M: Message + Default>(parts: &[&[u8]]) -> M {
    let bytes = parts.concat();
    let message = M::decode(bytes.as_slice()).unwrap();
    // Nothing was skipped as an unknown field: the length agrees.
    assert_eq!(
        message.encoded_len(),
        bytes.len(),
        "a field was not recognised"
    );
    message
}

/// A message in a field of which only the length is left to be counted.
fn within(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let inner = parts.concat();
    [&[tag, u8::try_from(inner.len()).unwrap()], inner.as_slice()].concat()
}

#[test]
fn workload_fields() {
    let w: workload::Workload = decode(&[
        b"\x0a\x01a",                                             // name 1
        b"\x12\x01b",                                             // namespace 2
        b"\x1a\x04\x0a\x00\x00\x01",                              // addresses 3
        b"\x22\x01c",                                             // network 4
        b"\x28\x01",                                              // tunnel_protocol 5 = HBONE
        b"\x32\x01d",                                             // trust_domain 6
        b"\x3a\x01e",                                             // service_account 7
        b"\x42\x0b\x0a\x06\x0a\x01f\x12\x01g\x18\x98\x75", // waypoint 8 {hostname 1 {1, 2}, port 3}
        b"\x4a\x01h",                                      // node 9
        b"\x52\x01i",                                      // canonical_name 10
        b"\x5a\x01j",                                      // canonical_revision 11
        b"\x60\x02",                                       // workload_type 12 = POD
        b"\x6a\x01k",                                      // workload_name 13
        b"\x70\x01",                                       // native_tunnel 14
        b"\x82\x01\x01l",                                  // authorization_policies 16
        b"\x88\x01\x01",                                   // status 17 = UNHEALTHY
        b"\x92\x01\x01m",                                  // cluster_id 18
        b"\x9a\x01\x09\x12\x07\x0a\x01n\x12\x02\x01\x02",  // network_gateway 19 {address 2 {1, 2}}
        b"\xa2\x01\x01o",                                  // uid 20
        b"\xaa\x01\x01p",                                  // hostname 21
        b"\xb2\x01\x0b\x0a\x01q\x12\x06\x0a\x04\x08\x50\x10\x51", // services 22 {q: {ports 1 {1, 2}}}
        b"\xba\x01\x05\x08\x01\x10\xf0\x75", // application_tunnel 23 {PROXY, 15088}
        b"\xc2\x01\x09\x0a\x01r\x12\x01s\x1a\x01t", // locality 24
        b"\xc8\x01\x01",                     // network_mode 25 = HOST_NETWORK
        b"\xd2\x01\x03\x0a\x01u",            // extensions 26 {name 1}
        b"\xda\x01\x02\x08\x07",             // capacity 27 {value 1 = 7}
    ]);
    assert_eq!(
        (w.name.as_str(), w.namespace.as_str(), w.network.as_str()),
        ("a", "b", "c")
    );
    assert_eq!(w.addresses[0].as_ref(), [10, 0, 0, 1]);
    assert_eq!(w.tunnel_protocol(), workload::TunnelProtocol::Hbone);
    assert_eq!(
        (
            w.trust_domain.as_str(),
            w.service_account.as_str(),
            w.node.as_str()
        ),
        ("d", "e", "h")
    );
    let waypoint = w.waypoint.clone().unwrap();
    assert_eq!(waypoint.hbone_mtls_port, 15000);
    let Some(workload::gateway_address::Destination::Hostname(name)) = waypoint.destination else {
        panic!("a hostname")
    };
    assert_eq!(
        (name.namespace.as_str(), name.hostname.as_str()),
        ("f", "g")
    );
    assert_eq!(
        (w.canonical_name.as_str(), w.canonical_revision.as_str()),
        ("i", "j")
    );
    assert_eq!(w.workload_type(), workload::WorkloadType::Pod);
    assert_eq!((w.workload_name.as_str(), w.native_tunnel), ("k", true));
    assert_eq!(w.authorization_policies, ["l"]);
    assert_eq!(w.status(), workload::WorkloadStatus::Unhealthy);
    assert_eq!(
        (w.cluster_id.as_str(), w.uid.as_str(), w.hostname.as_str()),
        ("m", "o", "p")
    );
    let gateway = w.network_gateway.clone().unwrap().destination;
    let Some(workload::gateway_address::Destination::Address(address)) = gateway else {
        panic!("an address")
    };
    assert_eq!(
        (address.network.as_str(), address.address.to_vec()),
        ("n", vec![1, 2])
    );
    let port = &w.services["q"].ports[0];
    assert_eq!((port.service_port, port.target_port), (80, 81));
    let tunnel = w.application_tunnel.as_ref().unwrap();
    assert_eq!(
        tunnel.protocol(),
        workload::application_tunnel::Protocol::Proxy
    );
    assert_eq!(tunnel.port, 15088);
    let locality = w.locality.as_ref().unwrap();
    assert_eq!(
        (
            locality.region.as_str(),
            locality.zone.as_str(),
            locality.subzone.as_str()
        ),
        ("r", "s", "t")
    );
    assert_eq!(w.network_mode(), workload::NetworkMode::HostNetwork);
    assert_eq!((w.extensions[0].name.as_str(), w.capacity), ("u", Some(7)));
}

#[test]
fn service_fields() {
    let service = within(
        0x12,
        &[
            // Address.service 2
            b"\x0a\x01a",                                        // name 1
            b"\x12\x01b",                                        // namespace 2
            b"\x1a\x01c",                                        // hostname 3
            b"\x22\x08\x12\x04\x0a\x00\x00\x00\x18\x08", // addresses 4 {address 2, length 3}
            b"\x2a\x06\x08\x50\x10\x51\x18\x03",         // ports 5 {1, 2, app_protocol 3 = GRPC}
            b"\x32\x01d",                                // subject_alt_names 6
            b"\x3a\x06\x12\x04\x12\x02\x01\x02",         // waypoint 7
            b"\x42\x08\x0a\x02\x06\x01\x10\x02\x18\x01", // load_balancing 8 {NETWORK REGION, FAILOVER, ALLOW_ALL}
            b"\x48\x03",                                 // ip_families 9 = DUAL
            b"\x52\x03\x0a\x01e",                        // extensions 10
            b"\x58\x01",                                 // canonical 11
            b"\x60\x01",                                 // ingress_use_waypoint 12
            b"\x6a\x0a\x0a\x06\x12\x04\x12\x02\x01\x02\x10\x4b", // weighted_waypoints 13 {destination 1, weight 2}
            b"\x70\x01",                                         // visibility 14 = NAMESPACE
        ],
    );
    let a: workload::Address = decode(&[&service]);
    let Some(workload::address::Type::Service(s)) = a.r#type else {
        panic!("a service")
    };
    assert_eq!(
        (s.name.as_str(), s.namespace.as_str(), s.hostname.as_str()),
        ("a", "b", "c")
    );
    assert_eq!(
        (s.addresses[0].address.to_vec(), s.addresses[0].length),
        (vec![10, 0, 0, 0], Some(8))
    );
    assert_eq!(s.ports[0].app_protocol(), workload::AppProtocol::Grpc);
    assert_eq!(s.subject_alt_names, ["d"]);
    assert!(s.waypoint.is_some());
    let lb = s.load_balancing.as_ref().unwrap();
    assert_eq!(lb.routing_preference, [6, 1]);
    assert_eq!(lb.mode(), workload::load_balancing::Mode::Failover);
    assert_eq!(
        lb.health_policy(),
        workload::load_balancing::HealthPolicy::AllowAll
    );
    assert_eq!(s.ip_families(), workload::IpFamilies::Dual);
    assert!(s.canonical && s.ingress_use_waypoint);
    assert_eq!(s.weighted_waypoints[0].weight, 75);
    assert_eq!(s.visibility(), workload::Visibility::Namespace);
    assert_eq!(s.extensions.len(), 1);
}

#[test]
fn a_single_vip_carries_no_length() {
    let address: workload::NetworkAddress = decode(&[b"\x0a\x01n", b"\x12\x02\x01\x02"]);
    assert_eq!(address.length, None);
}

#[test]
fn authorization_fields() {
    let matches = within(
        0x12,
        &[
            b"\x0a\x03\x0a\x01a",                        // namespaces 1 {exact 1}
            b"\x12\x03\x12\x01b",                        // not_namespaces 2 {prefix 2}
            b"\x1a\x03\x1a\x01c",                        // principals 3 {suffix 3}
            b"\x22\x02\x22\x00",                         // not_principals 4 {presence 4}
            b"\x2a\x08\x0a\x04\x0a\x00\x00\x00\x10\x08", // source_ips 5 {address 1, length 2}
            b"\x32\x08\x0a\x04\x0b\x00\x00\x00\x10\x08", // not_source_ips 6
            b"\x3a\x08\x0a\x04\x0c\x00\x00\x00\x10\x08", // destination_ips 7
            b"\x42\x08\x0a\x04\x0d\x00\x00\x00\x10\x08", // not_destination_ips 8
            b"\x4a\x02\x90\x3f",                         // destination_ports 9 (packed) = 8080
            b"\x52\x01\x50",                             // not_destination_ports 10 (packed) = 80
            b"\x5a\x06\x0a\x01d\x12\x01e",               // service_accounts 11 {1, 2}
            b"\x62\x06\x0a\x01f\x12\x01g",               // not_service_accounts 12
            b"\x6a\x03\x0a\x01h",                        // extensions 13
        ],
    );
    let a: security::Authorization = decode(&[
        b"\x0a\x01a",                                 // name 1
        b"\x12\x01b",                                 // namespace 2
        b"\x18\x02",                                  // scope 3 = WORKLOAD_SELECTOR
        b"\x20\x01",                                  // action 4 = DENY
        &within(0x2a, &[&within(0x0a, &[&matches])]), // rules 5 {clauses 1 {matches 2}}
        b"\x30\x01",                                  // dry_run 6
        b"\x3a\x03\x0a\x01i",                         // extensions 7
    ]);
    assert_eq!(
        (a.name.as_str(), a.namespace.as_str(), a.dry_run),
        ("a", "b", true)
    );
    assert_eq!(
        (a.scope(), a.action()),
        (security::Scope::WorkloadSelector, security::Action::Deny)
    );
    let m = &a.rules[0].clauses[0].matches[0];
    let kind = |s: &[security::StringMatch]| s[0].match_type.clone().unwrap();
    use security::string_match::MatchType;
    assert_eq!(kind(&m.namespaces), MatchType::Exact("a".into()));
    assert_eq!(kind(&m.not_namespaces), MatchType::Prefix("b".into()));
    assert_eq!(kind(&m.principals), MatchType::Suffix("c".into()));
    assert!(matches!(kind(&m.not_principals), MatchType::Presence(_)));
    for (list, first) in [
        (&m.source_ips, 10),
        (&m.not_source_ips, 11),
        (&m.destination_ips, 12),
        (&m.not_destination_ips, 13),
    ] {
        assert_eq!((list[0].address[0], list[0].length), (first, 8));
    }
    assert_eq!(
        (m.destination_ports.clone(), m.not_destination_ports.clone()),
        (vec![8080], vec![80])
    );
    assert_eq!(
        (
            m.service_accounts[0].namespace.as_str(),
            m.service_accounts[0].service_account.as_str()
        ),
        ("d", "e")
    );
    assert_eq!(m.not_service_accounts[0].service_account, "g");
    assert_eq!((m.extensions.len(), a.extensions.len()), (1, 1));
}

#[test]
fn zds_fields() {
    use workload::zds::{WorkloadRequest, WorkloadResponse, ZdsHello, workload_request::Payload};
    let hello: ZdsHello = decode(&[b"\x08\x01"]);
    assert_eq!(hello.version(), workload::zds::Version::V1);
    let payload = |bytes: &[u8]| decode::<WorkloadRequest>(&[bytes]).payload.unwrap();
    // add 1 {uid 1, workload_info 2 {name 1, namespace 2, service_account 3}}
    let Payload::Add(add) = payload(b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01a\x12\x01b\x1a\x01c") else {
        panic!("an add")
    };
    let info = add.workload_info.unwrap();
    assert_eq!(
        (
            add.uid.as_str(),
            info.name.as_str(),
            info.namespace.as_str(),
            info.service_account.as_str()
        ),
        ("u", "a", "b", "c")
    );
    // del 2 {uid 2}
    assert!(matches!(payload(b"\x12\x03\x12\x01u"), Payload::Del(del) if del.uid == "u"));
    assert!(matches!(payload(b"\x1a\x00"), Payload::SnapshotSent(_)));
    // keep 5 {uid 1}
    assert!(matches!(payload(b"\x2a\x03\x0a\x01u"), Payload::Keep(keep) if keep.uid == "u"));
    let response: WorkloadResponse = decode(&[b"\x0a\x03\x0a\x01e"]);
    let Some(workload::zds::workload_response::Payload::Ack(ack)) = response.payload else {
        panic!("an ack")
    };
    assert_eq!(ack.error, "e");
}

#[test]
fn certificate_fields() {
    let request: auth::IstioCertificateRequest = decode(&[
        b"\x0a\x01c",                                  // csr 1
        b"\x18\x80\xa3\x05",                           // validity_duration 3 = 86400
        b"\x22\x0a\x0a\x08\x0a\x01k\x12\x03\x1a\x01v", // metadata 4 {fields {k: string v}}
    ]);
    assert_eq!(
        (request.csr.as_str(), request.validity_duration),
        ("c", 86400)
    );
    let value = request.metadata.unwrap().fields["k"].kind.clone().unwrap();
    assert_eq!(value, prost_types::value::Kind::StringValue("v".into()));
    let response: auth::IstioCertificateResponse = decode(&[b"\x0a\x01a", b"\x0a\x01b"]);
    assert_eq!(response.cert_chain, ["a", "b"]);
}

#[test]
fn discovery_fields() {
    let request: discovery::DeltaDiscoveryRequest = decode(&[
        b"\x0a\x0b\x0a\x01i\x12\x01c\x1a\x00\x2a\x01v", // node 1 {id 1, cluster 2, metadata 3, build_version 5}
        b"\x12\x01t",                                   // type_url 2
        b"\x1a\x01s",                                   // resource_names_subscribe 3
        b"\x22\x01u",                                   // resource_names_unsubscribe 4
        b"\x2a\x06\x0a\x01n\x12\x01v",                  // initial_resource_versions 5
        b"\x32\x01o",                                   // response_nonce 6
        b"\x3a\x05\x08\x0d\x12\x01m",                   // error_detail 7 {code 1, message 2}
    ]);
    let node = request.node.unwrap();
    assert_eq!(
        (
            node.id.as_str(),
            node.cluster.as_str(),
            node.build_version.as_str()
        ),
        ("i", "c", "v")
    );
    assert!(node.metadata.is_some());
    assert_eq!(
        (request.type_url.as_str(), request.response_nonce.as_str()),
        ("t", "o")
    );
    assert_eq!(
        (
            request.resource_names_subscribe,
            request.resource_names_unsubscribe
        ),
        (vec!["s".to_owned()], vec!["u".to_owned()])
    );
    assert_eq!(request.initial_resource_versions["n"], "v");
    let error = request.error_detail.unwrap();
    assert_eq!((error.code, error.message.as_str()), (13, "m"));

    let resource = within(
        0x12,
        &[
            b"\x0a\x01v",                  // version 1
            b"\x12\x06\x0a\x01t\x12\x01b", // resource 2 (Any)
            b"\x1a\x01n",                  // name 3
            b"\x22\x01a",                  // aliases 4
            b"\x32\x02\x08\x05",           // ttl 6
            b"\x3a\x02\x08\x01",           // cache_control 7
        ],
    );
    let response: discovery::DeltaDiscoveryResponse = decode(&[
        b"\x0a\x01s", // system_version_info 1
        &resource,    // resources 2
        b"\x22\x01t", // type_url 4
        b"\x2a\x01o", // nonce 5
        b"\x32\x01r", // removed_resources 6
    ]);
    assert_eq!(
        (
            response.system_version_info.as_str(),
            response.type_url.as_str(),
            response.nonce.as_str()
        ),
        ("s", "t", "o")
    );
    assert_eq!(response.removed_resources, ["r"]);
    let resource = &response.resources[0];
    assert_eq!(
        (resource.version.as_str(), resource.name.as_str()),
        ("v", "n")
    );
    assert_eq!(resource.aliases, ["a"]);
    let any = resource.resource.as_ref().unwrap();
    assert_eq!(
        (any.type_url.as_str(), any.value.to_vec()),
        ("t", b"b".to_vec())
    );
    assert_eq!(resource.ttl.as_ref().unwrap().seconds, 5);
    assert!(resource.cache_control.as_ref().unwrap().do_not_cache);
}

#[test]
fn reserved_and_enum_numbers() {
    assert_eq!(workload::TunnelProtocol::LegacyIstioMtls as i32, 2);
    assert_eq!(workload::WorkloadType::Job as i32, 3);
    assert_eq!(workload::AppProtocol::Tls as i32, 5);
    assert_eq!(workload::IpFamilies::Ipv6Only as i32, 2);
    assert_eq!(workload::load_balancing::Mode::Passthrough as i32, 3);
    assert_eq!(security::Scope::Namespace as i32, 1);
}

#[test]
fn services_have_the_contracts_grpc_paths() {
    // The generated clients put package, service and method into the path.
    use crate::auth::istio_certificate_service_server as ca;
    use crate::discovery::aggregated_discovery_service_server as ads;
    assert_eq!(ca::SERVICE_NAME, "istio.v1.auth.IstioCertificateService");
    assert_eq!(
        ads::SERVICE_NAME,
        "envoy.service.discovery.v3.AggregatedDiscoveryService"
    );
}
