use super::*;
use crate::tests::Request;

fn tracing(wire: pb::Tracing) -> Result<Tracing, InvalidTelemetry> {
    let telemetry = Telemetry::decode(&pb::Telemetry {
        tracing: Some(wire),
        ..pb::Telemetry::default()
    })?;
    Ok(Tracing::clone(&telemetry.tracing.unwrap()))
}

fn otlp(port: u32, http_path: &str) -> Option<pb::OtlpExporter> {
    Some(pb::OtlpExporter {
        service: "obs/collector.obs.svc.cluster.local".to_owned(),
        port,
        http_path: http_path.to_owned(),
        ..pb::OtlpExporter::default()
    })
}

#[test]
fn a_frontend_replaces_signal_by_signal() {
    let log = |filter: &str, disabled| {
        Some(pb::AccessLogging {
            disabled,
            filter: filter.to_owned(),
            ..pb::AccessLogging::default()
        })
    };
    let gateway = Telemetry::decode(&pb::Telemetry {
        access_log: log("response.code >= 400", false),
        tracing: Some(pb::Tracing::default()),
        metrics_disabled: true,
        ..pb::Telemetry::default()
    })
    .unwrap();
    let same = gateway.overlaid(&pb::Telemetry::default()).unwrap();
    assert!(same.access_log.is_some() && same.tracing.is_some() && same.metrics.is_some());
    let off = gateway
        .overlaid(&pb::Telemetry {
            access_log: log("", true),
            ..pb::Telemetry::default()
        })
        .unwrap();
    assert!(off.access_log.is_none() && off.tracing.is_some());
}

#[test]
fn what_tracing_means() {
    let read = tracing(pb::Tracing {
        sampling: 12.5,
        otlp: otlp(4317, ""),
        propagation: pb::Propagation::B3AndW3c.into(),
        ..pb::Tracing::default()
    })
    .unwrap();
    assert!(read.istio_tags && (read.sampling.percent - 12.5).abs() < f64::EPSILON);
    assert_eq!(read.propagation, Propagation::Both);
    assert_eq!(read.collector.unwrap().timeout, Duration::from_secs(10));
    let off = tracing(pb::Tracing {
        disabled: true,
        sampling: 100.0,
        otlp: otlp(4317, ""),
        disable_propagation: true,
        ..pb::Tracing::default()
    })
    .unwrap();
    assert!(off.collector.is_none() && off.sampling.percent < f64::EPSILON);
    assert_eq!(off.propagation, Propagation::Off);
}

#[test]
fn what_cant_be_used_is_named() {
    let bad = |wire: pb::Tracing| tracing(wire).unwrap_err().to_string();
    let sampling = pb::Tracing {
        sampling: 101.0,
        ..pb::Tracing::default()
    };
    assert_eq!(
        bad(sampling),
        "telemetry.tracing.sampling: 101 is not between 0 and 100"
    );
    let nan = pb::Tracing {
        sampling: f64::NAN,
        ..pb::Tracing::default()
    };
    assert!(bad(nan).contains("sampling"));
    for (port, path, field) in [(0, "", "port"), (4318, "v1 traces", "http_path")] {
        let wire = pb::Tracing {
            otlp: otlp(port, path),
            ..pb::Tracing::default()
        };
        assert!(bad(wire).contains(field), "{field}");
    }
    let wire = pb::Tracing {
        tags: vec![pb::SpanTag {
            name: "t".to_owned(),
            ..pb::SpanTag::default()
        }],
        ..pb::Tracing::default()
    };
    assert!(bad(wire).contains("\"t\""));
}

#[test]
fn custom_tags() {
    let tag = |name: &str, value, default: &str| pb::SpanTag {
        name: name.to_owned(),
        value: Some(value),
        default_value: default.to_owned(),
    };
    use pb::span_tag::Value;
    let read = tracing(pb::Tracing {
        tags: vec![
            tag("l", Value::Literal("x".to_owned()), ""),
            tag("h", Value::Header("User-Agent".to_owned()), ""),
            tag("d", Value::Header("absent".to_owned()), "none"),
            tag("n", Value::Header("absent".to_owned()), ""),
        ],
        ..pb::Tracing::default()
    })
    .unwrap();
    let request = Request::new();
    let tags = read.tags_of(&request.record());
    let tags: Vec<_> = tags.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(tags, ["l=x", "h=curl/8.0", "d=none"]);
}
