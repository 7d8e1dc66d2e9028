//! A person at a terminal: runs the program in a folder of its own, and looks at everything that it says.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::hex;
use audit_core::keyring::{EnvironmentPassphrase, KeyRing, KeyUri, Protection};
use audit_core::packed;
use audit_core::time::System;
use audit_tlog::note::VerifierKey;
use base64::Engine as _;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const ORIGIN: &str = "log.example/ward-7";
pub(crate) const PASSPHRASE: &str = "seven sealed letters";
/// Longer than anything here takes; it only turns a hang into a failure.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The host of a log: a folder to work in, a home, a folder for state, and what must never be said.
pub(crate) struct Host {
    root: TempDir,
    secrets: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// With nothing in it.
    pub(crate) fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("home")).unwrap();
        fs::create_dir(root.path().join("work")).unwrap();
        Self {
            root,
            secrets: Arc::default(),
        }
    }

    /// With a log whose keys no passphrase seals.
    pub(crate) fn with_log() -> Self {
        let host = Self::new();
        host.run(["init", "--origin", ORIGIN, "--no-passphrase"])
            .exits(0);
        host
    }

    /// With a file that holds a passphrase.
    pub(crate) fn with_passphrase(text: &str) -> Self {
        let host = Self::new();
        fs::write(host.passphrase_file(), text).unwrap();
        chmod(&host.passphrase_file(), 0o600);
        host.keep_secret(text);
        host
    }

    pub(crate) fn passphrase_file(&self) -> PathBuf {
        self.root.path().join("passphrase")
    }

    /// Where all of its files lie.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The folder in which the program runs.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.path("audit-trail.db")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.root.path().join("state").join("audit-trail")
    }

    /// The one file in which the publisher remembers what it signed.
    pub(crate) fn state_file(&self) -> PathBuf {
        let files = names(&self.state_dir());
        assert_eq!(files.len(), 1, "state files: {files:?}");
        self.state_dir().join(&files[0])
    }

    pub(crate) fn vkey(&self) -> VerifierKey {
        let config = fs::read_to_string(self.path("audit-trail.toml")).unwrap();
        let line = config
            .lines()
            .find_map(|line| line.strip_prefix("vkey = "))
            .unwrap();
        line.trim_matches('"').parse().unwrap()
    }

    /// From now on a command that says this fails its test.
    pub(crate) fn keep_secret(&self, text: &str) {
        self.secrets.lock().unwrap().push(text.to_owned());
    }

    /// The same for every key in the key ring.
    pub(crate) fn keep_ring_secret(&self) {
        let passphrase_file = self.passphrase_file();
        let source = EnvironmentPassphrase::new(move |name| {
            (name == "AUDIT_TRAIL_PASSPHRASE_FILE").then(|| passphrase_file.clone().into())
        });
        let ring = KeyRing::load(&KeyUri::File(self.path("audit-trail.key")), &source).unwrap();
        let bytes = ring.to_file_bytes(&Protection::None, &System).unwrap();
        let mut secrets = self.secrets.lock().unwrap();
        collect_keys(&serde_json::from_slice(&bytes).unwrap(), &mut secrets);
        // Publisher, report, writer, index and one wrapping key, each in two spellings.
        assert!(secrets.len() >= 10, "the ring has few keys");
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_audit-trail"));
        self.prepare(&mut command);
        command.args(args);
        command
    }

    /// Gives `command` this host's folder and environment, and nothing else.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.work())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("XDG_STATE_HOME", self.root.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.passphrase_file().exists() {
            command.env("AUDIT_TRAIL_PASSPHRASE_FILE", self.passphrase_file());
        }
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.start(self.command(args)).end()
    }

    /// Runs it with this on standard input.
    pub(crate) fn run_with<S: AsRef<OsStr>>(
        &self,
        input: &[u8],
        args: impl IntoIterator<Item = S>,
    ) -> Run {
        let mut running = self.spawn(args);
        // Written from here: what comes out is read by other threads, so that neither waits for the other.
        running.write(input);
        running.end()
    }

    /// Starts it, with standard input open.
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        self.start(command)
    }

    pub(crate) fn start(&self, mut command: Command) -> Running {
        let said = format!("{command:?}");
        let mut child = command.spawn().unwrap();
        Running {
            stdin: child.stdin.take(),
            out: Pipe::new(child.stdout.take().unwrap()),
            err: Pipe::new(child.stderr.take().unwrap()),
            child,
            command: said,
            work: self.work(),
            secrets: Arc::clone(&self.secrets),
        }
    }

    /// Runs `emit -` over `lines`; every one must be recorded. The answers.
    pub(crate) fn emit_all(&self, lines: &[Value]) -> Vec<Value> {
        let mut input = String::new();
        for line in lines {
            writeln!(input, "{line}").unwrap();
        }
        let answers = self
            .run_with(input.as_bytes(), ["emit", "-"])
            .exits(0)
            .json_lines();
        assert_eq!(answers.len(), lines.len(), "answers: {answers:?}");
        answers
    }

    /// Every record, as `log --json` shows them.
    pub(crate) fn records(&self, filters: &[&str]) -> Vec<Value> {
        self.run(["log", "--json", "-n", "100000"].iter().chain(filters))
            .exits(0)
            .json_lines()
    }

    /// The JSON verdict of `verify`, whatever it is.
    pub(crate) fn verdict(&self, args: &[&str]) -> (Run, Value) {
        let run = self.run(["verify", "--json"].iter().chain(args));
        let verdict = serde_json::from_slice(&run.out).unwrap_or(Value::Null);
        (run, verdict)
    }
}

/// Puts every key that lies unsealed in a folder into `secrets`.
fn collect_unsealed(dir: &Path, secrets: &mut Vec<String>) {
    for name in names(dir) {
        let path = dir.join(name);
        if path.is_dir() {
            collect_unsealed(&path, secrets);
        } else if path.extension() == Some(OsStr::new("key"))
            && let Ok(bytes) = fs::read(&path)
            && let Ok(file) = serde_json::from_slice::<Value>(&bytes)
        {
            collect_keys(&file, secrets);
        }
    }
}

/// Puts every secret of a key file into `secrets`, in hexadecimal and in base64.
fn collect_keys(value: &Value, secrets: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if !["auditor", "public", "sealed", "salt", "kdf"].contains(&name.as_str()) {
                    collect_keys(value, secrets);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_keys(item, secrets)),
        Value::String(text) if text.len() == 64 => {
            if let Ok(key) = hex::decode(text)
                && !secrets.contains(text)
            {
                secrets.push(text.clone());
                secrets.push(base64::engine::general_purpose::STANDARD.encode(key));
            }
        }
        _ => {}
    }
}

/// One of the program's two outputs: its lines as they come.
struct Pipe {
    lines: Receiver<Vec<u8>>,
    read: Vec<u8>,
}

impl Pipe {
    fn new(source: impl Read + Send + 'static) -> Self {
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            loop {
                let mut line = Vec::new();
                match source.read_until(b'\n', &mut line) {
                    Ok(n) if n > 0 && send.send(line).is_ok() => {}
                    _ => break,
                }
            }
        });
        Self {
            lines,
            read: Vec::new(),
        }
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.read.extend_from_slice(&line);
                Some(String::from_utf8_lossy(&line).trim_end().to_owned())
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!(
                "nothing more came for {PATIENCE:?}; so far:\n{}",
                String::from_utf8_lossy(&self.read)
            ),
        }
    }
}

/// The program while it runs.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Pipe,
    err: Pipe,
    command: String,
    work: PathBuf,
    secrets: Arc<Mutex<Vec<String>>>,
}

impl Running {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        // A program that refuses its input may be gone before it has read all of it.
        drop(stdin.write_all(bytes).and_then(|()| stdin.flush()));
    }

    /// Waits for the next line on standard output.
    pub(crate) fn line(&mut self) -> String {
        let Some(line) = self.out.next() else {
            while self.err.next().is_some() {}
            panic!(
                "{} ended:\n{}",
                self.command,
                String::from_utf8_lossy(&self.err.read)
            );
        };
        line
    }

    /// Waits for a line on standard error that has `text` in it.
    pub(crate) fn note_with(&mut self, text: &str) -> String {
        while let Some(line) = self.err.next() {
            if line.contains(text) {
                return line;
            }
        }
        panic!(
            "{} never said {text:?}:\n{}",
            self.command,
            String::from_utf8_lossy(&self.err.read)
        );
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    /// Closes standard input and waits for the end.
    pub(crate) fn end(mut self) -> Run {
        drop(self.stdin.take());
        while self.out.next().is_some() {}
        while self.err.next().is_some() {}
        let status = self.child.wait().unwrap();
        let run = Run {
            command: std::mem::take(&mut self.command),
            status,
            out: std::mem::take(&mut self.out.read),
            err: String::from_utf8(std::mem::take(&mut self.err.read)).unwrap(),
        };
        collect_unsealed(&self.work, &mut self.secrets.lock().unwrap());
        for secret in self.secrets.lock().unwrap().iter() {
            let said = |bytes: &[u8]| bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(
                !said(&run.out) && !said(run.err.as_bytes()),
                "{} shows a secret",
                run.command
            );
        }
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `end` there is nothing to kill any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What came of a run.
pub(crate) struct Run {
    pub(crate) command: String,
    pub(crate) status: ExitStatus,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Run {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "{}\nstdout:\n{}\nstderr:\n{}",
            self.command,
            self.text(),
            self.err
        );
        self
    }

    /// It failed as a command should: nothing on standard output, the reason on standard error.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, why: &str) -> Self {
        let run = self.exits(code);
        assert!(run.out.is_empty(), "{}: data of a failure", run.command);
        assert!(
            run.err.contains("error: ") && run.err.contains(why),
            "{} doesn't say {why:?} but\n{}",
            run.command,
            run.err
        );
        run
    }

    /// And it says what to do.
    #[track_caller]
    pub(crate) fn hints(self, what: &str) -> Self {
        let hint = self.err.lines().find_map(|l| l.strip_prefix("hint: "));
        assert!(
            hint.is_some_and(|hint| hint.contains(what)),
            "{} doesn't hint at {what:?} but\n{}",
            self.command,
            self.err
        );
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap()
    }

    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// The names in a folder, sorted; none if there is no folder.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Whoever tampers knows how entries lie in the file: in SQL, `unpacked` gives an entry's text, and `packed` what is
/// stored for any text.
pub(crate) fn packing(db: &Connection) {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("unpacked", 1, flags, |call| {
        let entry = packed::unpack(call.get_raw(0).as_blob().unwrap()).unwrap();
        Ok(String::from_utf8(entry).unwrap())
    })
    .unwrap();
    db.create_scalar_function("packed", 1, flags, |call| {
        Ok(packed::pack(call.get_raw(0).as_bytes().unwrap()))
    })
    .unwrap();
}
