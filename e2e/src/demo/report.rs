//! What the demo prints: sections, facts, and claims that hold or don't.

use std::time::Instant;

/// Prints as it goes, and remembers what failed.
pub struct Report {
    started: Instant,
    section: usize,
    held: usize,
    failed: Vec<String>,
}

#[allow(clippy::print_stdout, reason = "the demo's purpose is to print")]
impl Report {
    /// Starts the clock.
    #[allow(clippy::new_without_default, reason = "starting a clock is no default")]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            section: 0,
            held: 0,
            failed: Vec::new(),
        }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.section += 1;
        let seconds = self.started.elapsed().as_secs_f32();
        println!("\n{}. {title}  [{seconds:.1} s]", self.section);
    }

    /// Something to know.
    pub fn fact(&self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            println!("     {line}");
        }
    }

    /// Something that must hold.
    pub fn claim(&mut self, text: impl Into<String>, holds: bool) {
        let text = text.into();
        if holds {
            self.held += 1;
            println!("   ✔ {text}");
        } else {
            println!("   ✘ {text}");
            self.failed.push(text);
        }
    }

    /// A claim whose check may itself fail; the error is printed.
    pub fn check<T>(&mut self, text: impl Into<String>, result: anyhow::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.claim(text, true);
                Some(value)
            }
            Err(error) => {
                self.claim(text, false);
                self.fact(format!("{error:#}"));
                None
            }
        }
    }

    /// The end: true if every claim held.
    pub fn finish(&self) -> bool {
        let seconds = self.started.elapsed().as_secs_f32();
        println!(
            "\n{} claims held, {} failed, {seconds:.1} s",
            self.held,
            self.failed.len()
        );
        for text in &self.failed {
            println!("   ✘ {text}");
        }
        self.failed.is_empty()
    }
}
