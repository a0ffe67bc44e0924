//! Each kind of failure, made by a server that does as it is told.

use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use tokio::net::TcpListener;

use super::*;

/// What a server does with the connections that it accepts, one after the other.
#[derive(Clone, Copy)]
enum Does {
    /// Answers every request.
    Answers,
    /// Answers one request, and says that it's the last.
    AnswersLast,
    /// Ends the connection when it has read a request.
    Ends,
    /// Answers one request, then ends the connection without a word.
    AnswersAndEnds,
    /// Ends it inside of the answer.
    EndsInside,
    /// Never answers.
    Waits,
    /// Answers what somebody else asked.
    Mistakes,
    /// Answers that it can't.
    Fails,
}

async fn serve(does: Does, mut stream: TcpStream) -> Result<()> {
    loop {
        let mut input = Vec::new();
        while !input.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8(input)?;
        let name = text.lines().find_map(|line| line.strip_prefix("x-ask: "));
        let name = match does {
            Does::Mistakes => "another",
            _ => name.unwrap_or_default(),
        };
        let body = serde_json::json!({"pod": "p", "headers": {"x-ask": [name]}}).to_string();
        let status = match does {
            Does::Fails => "503 Service Unavailable",
            _ => "200 OK",
        };
        let close = match does {
            Does::AnswersLast => "Connection: close\r\n",
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{close}\r\n",
            body.len()
        );
        match does {
            Does::Ends => return Ok(()),
            Does::Waits => std::future::pending().await,
            Does::EndsInside => {
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&body.as_bytes()[..4]).await?;
                return Ok(());
            }
            _ => {
                stream.write_all((head + &body).as_bytes()).await?;
                if matches!(does, Does::AnswersLast | Does::AnswersAndEnds) {
                    return Ok(());
                }
            }
        }
    }
}

async fn server(does: Does) -> (SocketAddr, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move { serve(does, stream).await.unwrap_or_default() });
        }
    });
    (at, tasks)
}

fn load(to: SocketAddr) -> Steady {
    Steady {
        to,
        host: "cart".to_owned(),
        fresh: 1,
        kept: 1,
        pause: Duration::from_millis(1),
        patience: Duration::from_millis(50),
    }
}

/// The tally once every worker has asked so often, and the failures.
async fn tally_of(does: Does, rounds: u64) -> (Tally, Vec<String>) {
    let (at, _server) = server(does).await;
    tally_at(at, rounds).await
}

async fn tally_at(at: SocketAddr, rounds: u64) -> (Tally, Vec<String>) {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&failures);
    let running = load(at).start(move |failure| heard.lock().unwrap().push(failure.to_owned()));
    eventually("the workers ask", async || {
        let tally = running.tally();
        ensure!(tally.rounds >= rounds, "{tally:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(running.workers(), 2);
    let failures = failures.lock().unwrap().clone();
    (running.tally(), failures)
}

#[tokio::test]
async fn right_answers_are_counted_by_pod_and_connections_by_kind() {
    let (tally, failures) = tally_of(Does::Answers, 3).await;
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!((tally.fresh.failed(), tally.kept.failed()), (0, 0));
    assert_eq!(tally.fresh.connections, tally.fresh.answered);
    assert_eq!(tally.kept.connections, 1);
    assert_eq!(tally.pods["p"], tally.fresh.answered + tally.kept.answered);
}

#[tokio::test]
async fn a_last_answer_and_an_end_between_two_are_no_failures() {
    for does in [Does::AnswersLast, Does::AnswersAndEnds] {
        let (tally, failures) = tally_of(does, 3).await;
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(tally.kept.connections, tally.kept.answered);
    }
}

#[tokio::test]
async fn every_failure_is_counted_as_what_it_was() {
    for (does, counted, said) in [
        (Does::Ends, [0, 1, 0, 0], "reset: its end after 0 bytes"),
        (Does::EndsInside, [0, 1, 0, 0], "reset: its end after"),
        (Does::Waits, [0, 0, 1, 0], "timed out: no answer"),
        (Does::Mistakes, [0, 0, 0, 1], "wrong answer: "),
        (Does::Fails, [0, 0, 0, 1], "503"),
    ] {
        let (tally, failures) = tally_of(does, 2).await;
        for counts in [tally.fresh, tally.kept] {
            let of_each = [counts.refused, counts.reset, counts.timed_out, counts.wrong];
            assert_eq!(of_each.map(|count| count.min(1)), counted, "{counts:?}");
            assert_eq!((counts.answered, counts.failed() > 1), (0, true));
        }
        assert!(failures[0].contains(said), "{failures:?}");
    }
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let (at, server) = server(Does::Answers).await;
    drop(server);
    // The listener goes with its task.
    eventually("the port is closed", async || {
        ensure!(TcpStream::connect(at).await.is_err(), "it still listens");
        Ok(())
    })
    .await
    .unwrap();
    let (tally, _) = tally_at(at, 2).await;
    assert_eq!(tally.fresh.failed(), tally.fresh.refused);
    assert!(tally.kept.refused > 1);
}

#[test]
fn counts_are_subtracted_field_by_field() {
    let earlier = Counts {
        answered: 1,
        reset: 2,
        slowest_ms: 9,
        ..Counts::default()
    };
    let later = Counts {
        answered: 5,
        reset: 3,
        slowest_ms: 11,
        ..Counts::default()
    };
    let since = later.since(&earlier);
    assert_eq!(
        (since.answered, since.failed(), since.slowest_ms),
        (4, 1, 11)
    );
}
