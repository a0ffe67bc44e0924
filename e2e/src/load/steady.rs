//! A steady load of requests that says how each one failed.
//!
//! Some workers open a connection for every request, the others keep theirs.
//! None gives up: a failed request is counted as what it was, and the next one
//! follows. What a well-behaved client would do after `Connection: close`, or
//! after an end of the stream between two answers, is no failure: it connects
//! anew.
//!
//! Knows nothing of clusters; the tally goes to whoever runs it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Which workers there are, and how they go about it.
#[derive(Debug, Clone)]
pub struct Steady {
    /// Server, an `ambit-echo`.
    pub to: SocketAddr,
    /// Its name, for the Host header.
    pub host: String,
    /// Workers that open a connection for every request.
    pub fresh: usize,
    /// Workers that keep their connection.
    pub kept: usize,
    /// Between two requests of a worker.
    pub pause: Duration,
    /// How long a connection, or an answer, may take.
    pub patience: Duration,
}

/// What became of the requests so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Of workers that open a connection for every request.
    pub fresh: Counts,
    /// Of workers that keep their connection.
    pub kept: Counts,
    /// Requests of the worker that has made the fewest.
    pub rounds: u64,
    /// Answers of each pod.
    pub pods: BTreeMap<String, u64>,
}

/// Requests of one kind of worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The right answer came.
    pub answered: u64,
    /// No connection, and somebody said so.
    pub refused: u64,
    /// The connection ended without the answer, or inside of it.
    pub reset: u64,
    /// No connection, or no answer, in time.
    pub timed_out: u64,
    /// An answer that isn't what was asked for.
    pub wrong: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// The longest that a right answer took since the load began, in milliseconds.
    pub slowest_ms: u64,
}

impl Counts {
    /// Requests without their answer.
    pub fn failed(&self) -> u64 {
        self.refused + self.reset + self.timed_out + self.wrong
    }

    /// What came since an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(earlier.answered),
            refused: self.refused.saturating_sub(earlier.refused),
            reset: self.reset.saturating_sub(earlier.reset),
            timed_out: self.timed_out.saturating_sub(earlier.timed_out),
            wrong: self.wrong.saturating_sub(earlier.wrong),
            connections: self.connections.saturating_sub(earlier.connections),
            slowest_ms: self.slowest_ms,
        }
    }

    fn count(&mut self, took: Duration, outcome: &Result<Answer, Failure>) {
        match outcome {
            Ok(_) => {
                self.answered += 1;
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.slowest_ms = self.slowest_ms.max(ms);
            }
            Err(Failure::Refused(_)) => self.refused += 1,
            Err(Failure::Reset(_)) => self.reset += 1,
            Err(Failure::TimedOut(_)) => self.timed_out += 1,
            Err(Failure::Wrong(_)) => self.wrong += 1,
        }
    }
}

/// Why there was no right answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("refused: {0}")]
    Refused(#[source] io::Error),
    /// The connection's end, without the answer.
    #[error("reset: {0}")]
    Reset(#[source] io::Error),
    /// Nothing in time.
    #[error("timed out: {0}")]
    TimedOut(&'static str),
    /// Something else than the answer: its beginning.
    #[error("wrong answer: {0}")]
    Wrong(String),
}

/// The right answer.
struct Answer {
    pod: String,
    /// The server ends the connection.
    last: bool,
}

/// The load as it runs. Dropping it ends it.
pub struct Running {
    board: Arc<Mutex<Board>>,
    workers: tokio::task::JoinSet<()>,
}

#[derive(Default)]
struct Board {
    fresh: Counts,
    kept: Counts,
    rounds: Vec<u64>,
    pods: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fresh,
    Kept,
}

impl Steady {
    /// Starts the workers. `failed` hears of every failure as it happens.
    pub fn start(self, failed: impl Fn(&str) + Clone + Send + 'static) -> Running {
        let kinds = [(Kind::Fresh, self.fresh), (Kind::Kept, self.kept)];
        let kinds = kinds
            .into_iter()
            .flat_map(|(kind, count)| std::iter::repeat_n(kind, count));
        let board = Arc::new(Mutex::new(Board {
            rounds: vec![0; self.fresh + self.kept],
            ..Board::default()
        }));
        let mut workers = tokio::task::JoinSet::new();
        for (index, kind) in kinds.enumerate() {
            let worker = Worker {
                load: self.clone(),
                kind,
                index,
                asked: 0,
                kept: None,
                from: None,
            };
            workers.spawn(worker.run(Arc::clone(&board), failed.clone()));
        }
        Running { board, workers }
    }
}

impl Running {
    /// What became of the requests so far.
    pub fn tally(&self) -> Tally {
        let board = locked(&self.board);
        Tally {
            fresh: board.fresh,
            kept: board.kept,
            rounds: board.rounds.iter().copied().min().unwrap_or_default(),
            pods: board.pods.clone(),
        }
    }

    /// Workers that are left: all of them, or one has panicked.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }
}

fn locked(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    load: Steady,
    kind: Kind,
    index: usize,
    asked: u64,
    kept: Option<TcpStream>,
    /// Of the last connection, to find it in a capture.
    from: Option<SocketAddr>,
}

impl Worker {
    async fn run(mut self, board: Arc<Mutex<Board>>, failed: impl Fn(&str)) {
        let started = Instant::now();
        loop {
            let connected = self.kept.is_some();
            let began = Instant::now();
            let outcome = self.ask().await;
            let took = began.elapsed();
            if let Err(failure) = &outcome {
                let kind = match (self.kind, connected) {
                    (Kind::Fresh, _) => "new connection",
                    (Kind::Kept, true) => "kept connection",
                    (Kind::Kept, false) => "kept connection, its first request",
                };
                let (index, ms) = (self.index, took.as_millis());
                let port = self.from.map_or(0, |from| from.port());
                let at = started.elapsed().as_secs_f64();
                failed(&format!(
                    "at {at:.3} s worker {index} ({kind}, port {port}) after {ms} ms: {failure}"
                ));
            }
            self.tell(&mut locked(&board), took, &outcome, connected);
            sleep(self.load.pause).await;
            self.forget_ended();
        }
    }

    fn tell(
        &self,
        board: &mut Board,
        took: Duration,
        outcome: &Result<Answer, Failure>,
        connected: bool,
    ) {
        let counts = match self.kind {
            Kind::Fresh => &mut board.fresh,
            Kind::Kept => &mut board.kept,
        };
        counts.count(took, outcome);
        counts.connections += u64::from(!connected);
        if let Some(rounds) = board.rounds.get_mut(self.index) {
            *rounds += 1;
        }
        if let Ok(Answer { pod, .. }) = outcome {
            *board.pods.entry(pod.clone()).or_default() += 1;
        }
    }

    /// The server may end a connection between two requests.
    fn forget_ended(&mut self) {
        let ended = |stream: &TcpStream| match stream.try_read(&mut [0; 1]) {
            Err(error) => error.kind() != ErrorKind::WouldBlock,
            // Bytes that nobody asked for: the next answer would be wrong.
            Ok(read) => read == 0,
        };
        if self.kept.as_ref().is_some_and(ended) {
            self.kept = None;
        }
    }

    async fn ask(&mut self) -> Result<Answer, Failure> {
        self.asked += 1;
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => {
                self.from = None;
                self.connect().await?
            }
        };
        self.from = stream.local_addr().ok();
        let name = format!("{}-{}", self.index, self.asked);
        let answer = timeout(self.load.patience, self.exchange(&mut stream, &name))
            .await
            .map_err(|_| Failure::TimedOut("no answer"))??;
        if self.kind == Kind::Kept && !answer.last {
            self.kept = Some(stream);
        }
        Ok(answer)
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let connected = timeout(self.load.patience, TcpStream::connect(self.load.to)).await;
        let stream = connected
            .map_err(|_| Failure::TimedOut("no connection"))?
            .map_err(|error| match error.kind() {
                ErrorKind::TimedOut => Failure::TimedOut("no connection, says the kernel"),
                ErrorKind::ConnectionReset => Failure::Reset(error),
                _ => Failure::Refused(error),
            })?;
        stream.set_nodelay(true).map_err(Failure::Reset)?;
        Ok(stream)
    }

    async fn exchange(&self, stream: &mut TcpStream, name: &str) -> Result<Answer, Failure> {
        let close = match self.kind {
            Kind::Fresh => "connection: close\r\n",
            Kind::Kept => "",
        };
        let host = &self.load.host;
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-ask: {name}\r\n{close}\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(Failure::Reset)?;
        let mut input = Vec::with_capacity(2048);
        loop {
            if let Some(answer) = read_answer(&input, name)? {
                return Ok(answer);
            }
            let read = stream.read_buf(&mut input).await.map_err(Failure::Reset)?;
            if read == 0 {
                let seen = format!("its end after {} bytes", input.len());
                return Err(Failure::Reset(io::Error::other(seen)));
            }
        }
    }
}

/// The answer, once it is whole.
fn read_answer(input: &[u8], name: &str) -> Result<Option<Answer>, Failure> {
    let wrong = |input: &[u8]| {
        let start = input.get(..input.len().min(300)).unwrap_or_default();
        Failure::Wrong(format!("{:?}", String::from_utf8_lossy(start)))
    };
    if input.len() > MOST {
        return Err(wrong(input));
    }
    let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = input.split_at(end + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(key, value)| (key == name).then(|| value.trim().to_owned()))
    };
    let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
    let status = head.split(' ').nth(1);
    let (Some("200"), Some(length)) = (status, length) else {
        return Err(wrong(input));
    };
    if body.len() < length {
        return Ok(None);
    }
    let told: serde_json::Value = serde_json::from_slice(body).map_err(|_| wrong(input))?;
    let asked = told["headers"]["x-ask"][0].as_str();
    let (true, Some(pod)) = (asked == Some(name), told["pod"].as_str()) else {
        return Err(wrong(input));
    };
    Ok(Some(Answer {
        pod: pod.to_owned(),
        last: field("connection").is_some_and(|value| value == "close"),
    }))
}

/// Bytes of an answer, at most.
const MOST: usize = 64 << 10;

#[cfg(test)]
mod tests;
