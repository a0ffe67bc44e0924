//! Gives back the memory of code that an idle proxy doesn't run.
//!
//! Most of an idle proxy's resident memory is its own program text: what read
//! the configuration, shook hands and parsed YAML once. Those pages are clean
//! copies of the file, so dropping them costs a page fault each if they are
//! wanted again. Nothing else is touched: heap and data stay.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::resource::{UsageWho, getrusage};
use tracing::debug;

use crate::{Readiness, processor};

/// Between two looks at how busy the process was.
const LOOK: Duration = Duration::from_secs(2);
/// Processor time between two looks up to which the process counts as idle.
const IDLE: Duration = Duration::from_millis(40);

/// Between two trims of a process that stays idle.
const PAUSE: u32 = 5;
/// Page faults since a trim from which on another one is worth its while.
const FAULTS: i64 = 32;

/// Trims while the process is ready and idle, if it has faulted in enough
/// since the last time; never while it is busy.
pub async fn keep_trimmed(readiness: Readiness) {
    let mut before = Used::now();
    let mut faults = 0;
    let mut looks = PAUSE;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = Used::now();
        let idle = now.processor.saturating_sub(before.processor) <= IDLE;
        before = now;
        looks = looks.saturating_add(1);
        let worth_it = before.faults - faults >= FAULTS;
        if idle && worth_it && looks > PAUSE && readiness.is_ready() {
            trim();
            faults = before.faults;
            looks = 0;
        }
    }
}

/// What the process has used so far.
#[derive(Clone, Copy)]
struct Used {
    processor: Duration,
    /// Page faults that needed no reading.
    faults: i64,
}

impl Used {
    fn now() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
            return Self {
                processor: Duration::ZERO,
                faults: 0,
            };
        };
        Self {
            processor: processor::of(&usage),
            faults: usage.minor_page_faults(),
        }
    }
}

fn trim() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let mut bytes = 0;
    for (start, length) in maps.lines().filter_map(text_mapping) {
        bytes += drop_pages(start, length);
    }
    debug!(bytes, "dropped idle pages of program text");
}

/// Start and length of a line's mapping, if it is program text of a file:
/// private, executable, not writable.
fn text_mapping(line: &str) -> Option<(NonNull<c_void>, usize)> {
    let mut fields = line.split_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if permissions != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let pointer = NonNull::new(std::ptr::with_exposed_provenance_mut(start))?;
    Some((pointer, end.checked_sub(start)?))
}

#[allow(unsafe_code, reason = "madvise has no safe form")]
fn drop_pages(start: NonNull<c_void>, length: usize) -> usize {
    // SAFETY: the range is a mapping that the kernel just listed as private,
    // file-backed, executable and not writable. Its pages were never written
    // (text has no relocations), so the next access reads the same bytes from
    // the file; nothing that Rust owns lives in it.
    match unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) } {
        Ok(()) => length,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files_is_taken() {
        let text = "55d0c0a00000-55d0c1200000 r-xp 00200000 fe:00 123   /usr/bin/program";
        let (start, length) = text_mapping(text).unwrap();
        assert_eq!(
            (start.as_ptr().addr(), length),
            (0x55d0_c0a0_0000, 0x80_0000)
        );
        for other in [
            "55d0c0a00000-55d0c1200000 r--p 00200000 fe:00 123   /usr/bin/program",
            "55d0c0a00000-55d0c1200000 rwxp 00200000 fe:00 123   /usr/bin/program",
            "7ffd1d5e0000-7ffd1d5e2000 r-xp 00000000 00:00 0     [vdso]",
            "7ffd1d5e0000-7ffd1d5e2000 r-xp 00000000 00:00 0",
            "garbage",
        ] {
            assert!(text_mapping(other).is_none(), "{other}");
        }
    }

    #[test]
    fn the_program_runs_on_after_it() {
        trim();
        assert!(Used::now().faults > 0);
        assert_eq!(
            format!("{:?}", "still here".split(' ').collect::<Vec<_>>()),
            "[\"still\", \"here\"]"
        );
    }
}
