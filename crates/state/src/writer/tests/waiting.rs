use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_known_workload_is_not_waited_for() {
    let (mut writer, reader) = started();
    writer.apply_addresses(vec![named(pod("a", [10, 0, 0, 1]))], &[]);
    let found = reader
        .wait_local_workload("a", "shop", "default", Duration::ZERO)
        .await;
    assert!(found.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_arrives_ends_the_wait() {
    let (mut writer, reader) = started();
    let waits = reader.wait_local_workload("a", "shop", "default", 5 * SECOND);
    let arrives = async {
        tokio::time::sleep(SECOND).await;
        writer.apply_addresses(vec![named(pod("b", [10, 0, 0, 2]))], &[]);
        tokio::time::sleep(SECOND).await;
        writer.apply_addresses(vec![named(pod("a", [10, 0, 0, 1]))], &[]);
        Instant::now()
    };
    let start = Instant::now();
    let (found, _) = tokio::join!(waits, arrives);
    assert_eq!(&*found.unwrap().name, "a");
    assert_eq!(start.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_wait_has_an_end() {
    let (mut writer, reader) = started();
    writer.apply_addresses(vec![named(pod("a", [10, 0, 0, 1]))], &[]);
    let start = Instant::now();
    let found = reader
        .wait_local_workload("a", "shop", "another", 5 * SECOND)
        .await;
    assert!(found.is_none());
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_gone_ends_the_wait() {
    let (writer, reader) = started();
    drop(writer);
    let found = reader
        .wait_local_workload("a", "shop", "default", 5 * SECOND)
        .await;
    assert!(found.is_none());
}
