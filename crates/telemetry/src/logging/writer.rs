//! A thread that writes log lines in batches: producers never wait for the
//! terminal unless the queue is full, and then they wait rather than lose a line.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

const QUEUE: usize = 10_000;
const BATCH: usize = 64;

/// Makes the writers of log lines.
#[derive(Clone)]
pub struct LogWriter {
    queue: Arc<Mutex<Option<SyncSender<Vec<u8>>>>>,
}

/// Writes what is queued when it is dropped.
pub struct Flush {
    queue: Arc<Mutex<Option<SyncSender<Vec<u8>>>>>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(target: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&receiver, target))?;
        let queue = Arc::new(Mutex::new(Some(sender)));
        Ok((
            Self {
                queue: Arc::clone(&queue),
            },
            Flush {
                queue,
                thread: Some(thread),
            },
        ))
    }
}

fn write_all(queue: &Receiver<Vec<u8>>, mut target: impl Write) {
    while let Ok(first) = queue.recv() {
        let mut lines = vec![first];
        lines.extend(queue.try_iter().take(BATCH - 1));
        let mut slices: Vec<IoSlice<'_>> = lines.iter().map(|line| IoSlice::new(line)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match target.write_vectored(rest) {
                Ok(0) => break,
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nowhere to report it: the log is what failed.
                Err(_) => break,
            }
        }
        let _ = target.flush();
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.queue.lock().take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Collects one line; queues it when it is dropped.
pub struct Line {
    bytes: Vec<u8>,
    queue: Arc<Mutex<Option<SyncSender<Vec<u8>>>>>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let queue = self.queue.lock().clone();
        if let Some(queue) = queue.filter(|_| !bytes.is_empty()) {
            // Blocks while the queue is full; fails only once logging has ended.
            let _ = queue.send(bytes);
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            bytes: Vec::new(),
            queue: Arc::clone(&self.queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Vec<u8>>>);
    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let some = bytes.len().min(7);
            self.0.lock().extend_from_slice(&bytes[..some]);
            Ok(some)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_arrives_once_and_in_order() {
        let target = Slow::default();
        let (writer, flush) = LogWriter::start(target.clone()).unwrap();
        let lines = 3 * QUEUE;
        for n in 0..lines {
            writeln!(writer.make_writer(), "line {n}").unwrap();
        }
        drop(flush);
        writeln!(writer.make_writer(), "after the end").unwrap();
        let text = String::from_utf8(target.0.lock().clone()).unwrap();
        let expected: String = (0..lines).map(|n| format!("line {n}\n")).collect();
        assert!(text == expected);
    }
}
