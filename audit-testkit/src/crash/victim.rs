//! A process that is going to be killed, as its driver sees it.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything here takes; it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process whose standard output is read line by line.
#[derive(Debug)]
pub struct Victim {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
    complaints: Option<JoinHandle<String>>,
}

/// What is left of it.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "made here, read by tests")]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Every whole line that it said. What was cut within a line was never said.
    pub lines: Vec<String>,
    /// Its standard error.
    pub stderr: String,
}

impl Ended {
    /// Whether SIGKILL ended it, and it hadn't ended by itself before.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        #[cfg(unix)]
        let signal = std::os::unix::process::ExitStatusExt::signal(&self.status);
        #[cfg(not(unix))]
        let signal = None::<i32>;
        signal == Some(9)
    }
}

impl Victim {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("a pipe to the process is missing");
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let mut stderr = child.stderr.take().ok_or_else(missing)?;
        let (send, lines) = channel();
        // It is read all the time, so that the process never waits for its driver.
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) && line.ends_with(b"\n")
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if send.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let complaints = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            drop(stderr.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self {
            child,
            lines,
            heard: Vec::new(),
            complaints: Some(complaints),
        })
    }

    /// Waits until it has said `times` more lines that begin with `word`; `false` if it ends before.
    ///
    /// # Panics
    ///
    /// If it says nothing for two minutes.
    pub fn wait_for(&mut self, word: &str, times: usize) -> bool {
        let mut left = times;
        while left > 0 {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    left -= usize::from(line.starts_with(word));
                    self.heard.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    drop(self.child.kill());
                    assert_eq!(
                        left,
                        0,
                        "the process said no {word:?} for {PATIENCE:?}: {:?}",
                        self.heard.last()
                    );
                }
            }
        }
        true
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    ///
    /// If it can't be waited for.
    pub fn kill(mut self) -> io::Result<Ended> {
        self.child.kill()?;
        self.end()
    }

    /// What a process said on standard error that has ended by itself.
    pub fn last_words(&mut self) -> String {
        let complaints = self.complaints.take().map(JoinHandle::join);
        complaints.and_then(Result::ok).unwrap_or_default()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it can't be waited for.
    ///
    /// # Panics
    ///
    /// If it says nothing for two minutes.
    pub fn end(mut self) -> io::Result<Ended> {
        // No line ends with this, so all of them are heard.
        while self.wait_for("\n", 1) {}
        let status = self.child.wait()?;
        Ok(Ended {
            status,
            lines: std::mem::take(&mut self.heard),
            stderr: self.last_words(),
        })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // After its end there is nothing to kill any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits.
pub fn pause(time: Duration) {
    let (_open, never) = channel::<()>();
    // It times out: the other end is kept, and nothing is sent.
    let ended = never.recv_timeout(time);
    debug_assert_eq!(ended, Err(RecvTimeoutError::Timeout));
}
