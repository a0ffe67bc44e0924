//! Compiles our .proto files in pure Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "istio/workload/workload.proto",
        "istio/workload/zds.proto",
        "istio/security/authorization.proto",
        "istio/v1/auth/ca.proto",
        "envoy/service/discovery/v3/discovery.proto",
        "ambit/enrolment/v1/enrolment.proto",
        "ambit/waypoint/v1/gateway.proto",
        "ambit/waypoint/v1/frontend.proto",
        "ambit/waypoint/v1/route.proto",
        "ambit/waypoint/v1/backend.proto",
        "ambit/waypoint/v1/security.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".google.protobuf.Any")
        .bytes(".istio.workload.Workload.addresses")
        // Resource versions hash the encoding: maps have one order.
        .btree_map(".istio.workload")
        .compile_fds(descriptors)?;
    Ok(())
}
