use super::*;
use crate::tests::Request;

#[test]
fn the_ring_keeps_the_last_ones_without_secrets() {
    let recorder = Recorder::new(2);
    let request = Request::new();
    for status in [200, 201, 202] {
        let mut record = request.record();
        record.status = status;
        recorder.record(&record);
    }
    let recent = recorder.recent();
    let status: Vec<_> = recent.iter().map(|one| one.status).collect();
    assert_eq!(status, [201, 202]);
    assert_eq!(recent[0].path, "/items", "no query");
    let json = serde_json::to_value(&*recent[0]).unwrap();
    assert_eq!(json["destinationService"], "cart.shop.svc.cluster.local");
}

#[test]
fn what_the_ring_keeps_reads_as_what_subscribers_see() {
    let recorder = Recorder::new(1);
    let request = Request::new();
    let long = "é".repeat(MAX_TEXT);
    let mut record = request.record();
    record.path = &long;
    record.details = "";
    // The second one uses the place of the first one.
    for _ in 0..2 {
        recorder.record(&record);
        record.path = "/short?secret";
        record.route = "";
    }
    let kept = recorder.recent();
    record.path = "/short?other";
    assert_eq!(*kept[0], Summary::from(&record));
    record.path = &long;
    let cut = Summary::from(&record);
    assert_eq!(cut.path.len(), MAX_TEXT);
    assert_eq!(
        (cut.details.as_str(), &*cut.authority),
        ("", record.authority)
    );
}

#[tokio::test]
async fn subscribers_see_what_their_filter_holds_for() {
    let recorder = Recorder::new(0);
    let request = Request::new();
    let mut record = request.record();
    recorder.record(&record);
    let mut all = recorder.subscribe(None).unwrap();
    let filter = "response.code >= 500".parse().unwrap();
    let mut failed = recorder.subscribe(Some(filter)).unwrap();
    recorder.record(&record);
    record.status = 503;
    recorder.record(&record);
    let status = |seen: Option<Observed>| match seen {
        Some(Observed::Request(one)) => one.status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status(all.next().await), 200);
    assert_eq!(status(all.next().await), 503);
    assert_eq!(status(failed.next().await), 503);
    assert!(recorder.recent().is_empty());
}

#[tokio::test]
async fn a_slow_subscriber_loses_and_is_told() {
    let recorder = Recorder::new(0);
    let request = Request::new();
    let mut slow = recorder.subscribe(None).unwrap();
    for _ in 0..LAG + 10 {
        recorder.record(&request.record());
    }
    assert!(matches!(slow.next().await, Some(Observed::Lost(10))));
    assert!(matches!(slow.next().await, Some(Observed::Request(_))));
}

#[test]
fn subscribers_are_bounded_and_forgotten() {
    let recorder = Recorder::new(0);
    let held: Vec<_> = (0..MAX_SUBSCRIBERS)
        .map(|_| recorder.subscribe(None).unwrap())
        .collect();
    assert_eq!(recorder.subscribe(None).unwrap_err(), TooManySubscribers);
    drop(held);
    assert!(recorder.subscribe(None).is_ok());
}
