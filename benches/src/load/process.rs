//! The other parties: processes that end with the measurement.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, copy, sink};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::load::times::Timer;

/// A process that listens.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    child: Child,
    /// Where.
    pub address: SocketAddr,
}

/// What a process holds, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    /// All of it.
    pub rss: u64,
    /// What it alone holds: heap and stacks.
    pub anonymous: u64,
    /// The most that it has held at any time.
    pub peak: u64,
}

impl Running {
    /// A subcommand of this program.
    pub fn own(name: &'static str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Self::announced(name, command, Output::Stdout)
    }

    /// The provider with the recorded traffic, if `AUDIT_FIXTURES` names it.
    pub fn recorded_provider(fixtures: &Path) -> Result<Self> {
        let mut command = Command::new("python3");
        command.arg(fixtures.join("fake_provider.py"));
        Self::announced("fake_provider.py", command, Output::Stdout)
    }

    /// `audit-trail serve` over a new log in `dir`, with these upstreams.
    pub fn gateway(dir: &Path, upstreams: &[(&str, SocketAddr)]) -> Result<Self> {
        let log = LogFiles::new(dir);
        if !log.store.exists() {
            log.init()?;
        }
        let mut command = log.command()?;
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        for (name, address) in upstreams {
            command.args(["--upstream", &format!("{name}=http://{address}")]);
        }
        // Unset ones would ask for root certificates.
        for name in ["anthropic", "openai"] {
            if let Some((_, first)) = upstreams.first()
                && !upstreams.iter().any(|(given, _)| *given == name)
            {
                command.args(["--upstream", &format!("{name}=http://{first}")]);
            }
        }
        Self::announced("audit-trail serve", command, Output::Stderr)
    }

    /// nginx as a plain reverse proxy, if it is installed.
    pub fn nginx(dir: &Path, upstream: SocketAddr) -> Result<Option<Self>> {
        let known = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
        let Some(program) = known.iter().map(Path::new).find(|p| p.exists()) else {
            return Ok(None);
        };
        // Freed when this returns, and taken by nginx right after.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let here = dir.display();
        // One process, so that it can be ended by its id. The connection to the provider is kept, nothing is logged,
        // and nothing is held back: what a careful operator would set for streams.
        let text = format!(
            "daemon off; master_process off; worker_processes 1; pid {here}/nginx.pid; error_log {here}/nginx.log;
             events {{ worker_connections 4096; }}
             http {{
                 access_log off; keepalive_requests 10000000; tcp_nodelay on;
                 client_body_temp_path {here}/nginx-body; proxy_temp_path {here}/nginx-proxy;
                 fastcgi_temp_path {here}/nginx-f; uwsgi_temp_path {here}/nginx-u; scgi_temp_path {here}/nginx-s;
                 upstream provider {{ server {upstream}; keepalive 64; keepalive_requests 10000000; }}
                 server {{
                     listen {address};
                     location / {{
                         proxy_pass http://provider; proxy_http_version 1.1;
                         proxy_set_header Connection \"\"; proxy_buffering off;
                     }}
                 }}
             }}"
        );
        let settings = dir.join("nginx.conf");
        fs::write(&settings, text)?;
        let child = Command::new(program)
            .arg("-e")
            .arg(dir.join("nginx.log"))
            .arg("-c")
            .arg(&settings)
            .arg("-p")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut running = Self {
            name: "nginx",
            child,
            address,
        };
        let timer = Timer::start(Duration::from_secs(10));
        while TcpStream::connect(address).is_err() {
            if !timer.runs() || running.child.try_wait()?.is_some() {
                let log = fs::read_to_string(dir.join("nginx.log")).unwrap_or_default();
                return Err(format!("nginx doesn't listen: {log}").into());
            }
            std::thread::yield_now();
        }
        Ok(Some(running))
    }

    /// Starts a process that says on one line where it listens.
    fn announced(name: &'static str, mut command: Command, output: Output) -> Result<Self> {
        command.stdin(Stdio::piped());
        let piped = match output {
            Output::Stdout => command.stdout(Stdio::piped()),
            Output::Stderr => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        let mut child = piped
            .spawn()
            .map_err(|e| format!("{name} can't be started: {e}"))?;
        let output: Box<dyn Read + Send> = match output {
            Output::Stdout => Box::new(child.stdout.take().ok_or("no standard output")?),
            Output::Stderr => Box::new(child.stderr.take().ok_or("no standard error")?),
        };
        let mut output = BufReader::new(output);
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if output.read_line(&mut line)? == 0 {
                drop(child.kill());
                return Err(format!("{name} ended before it listened: {said}").into());
            }
            let lower = line.to_ascii_lowercase();
            let address = lower
                .split_once("listening")
                .and_then(|(_, rest)| rest.split_once("http://"))
                .and_then(|(_, rest)| rest.trim().parse().ok());
            if let Some(address) = address {
                // What it says later must not fill the pipe.
                std::thread::spawn(move || copy(&mut output, &mut sink()));
                return Ok(Self {
                    name,
                    child,
                    address,
                });
            }
            said.push_str(&line);
        }
    }

    /// What it holds now.
    pub fn resident(&self) -> Result<Resident> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|l| l.split_whitespace().next());
            Ok(word.ok_or_else(|| format!("no {name}"))?.parse()?)
        };
        Ok(Resident {
            rss: kib("VmRSS:")?,
            anonymous: kib("RssAnon:")?,
            peak: kib("VmHWM:")?,
        })
    }

    /// The time that processors have spent on it.
    pub fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which may hold anything: state is the first field, user and system time the 12th and 13th.
        let (_, fields) = text.rsplit_once(')').ok_or("no name")?;
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<std::result::Result<u64, _>>()?;
        // USER_HZ is 100 on every architecture that Linux has this for.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status()?;
        let ended = self.child.wait()?;
        if sent.success() && ended.success() {
            Ok(())
        } else {
            Err(format!("{} ended with {ended}", self.name).into())
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already can't be killed, which is as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Clone, Copy)]
enum Output {
    Stdout,
    Stderr,
}

/// The files of a log in a directory.
#[derive(Debug)]
pub struct LogFiles {
    dir: PathBuf,
    /// The store.
    pub store: PathBuf,
}

impl LogFiles {
    /// In `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            store: dir.join("log.db"),
        }
    }

    /// Makes the log.
    pub fn init(&self) -> Result<()> {
        let done = self
            .command()?
            .args(["init", "--no-passphrase", "--origin", "bench.example/load"])
            .output()?;
        if done.status.success() {
            Ok(())
        } else {
            Err(format!("init: {}", String::from_utf8_lossy(&done.stderr)).into())
        }
    }

    /// `audit-trail` with the settings of this log.
    fn command(&self) -> Result<Command> {
        let beside = std::env::current_exe()?;
        let program = beside.parent().ok_or("no directory")?.join("audit-trail");
        if !program.exists() {
            return Err(format!(
                "{} is missing; build it with: cargo build --release -p audit-cli",
                program.display()
            )
            .into());
        }
        let with = |scheme: &str, name: &str| {
            let mut value = OsStr::new(scheme).to_owned();
            value.push(self.dir.join(name));
            value
        };
        let mut command = Command::new(program);
        command
            .current_dir(&self.dir)
            .env("AUDIT_TRAIL_CONFIG", self.dir.join("audit-trail.toml"))
            .env("AUDIT_TRAIL_STORE", with("sqlite:", "log.db"))
            .env("AUDIT_TRAIL_KEY", with("file:", "log.key"))
            .env("AUDIT_TRAIL_STATE_DIR", self.dir.join("state"));
        Ok(command)
    }

    /// Bytes of the store and of what lies beside it.
    pub fn bytes(&self) -> Result<u64> {
        let mut bytes = fs::metadata(&self.store)?.len();
        for beside in ["log.db-wal", "log.db-shm"] {
            bytes += fs::metadata(self.dir.join(beside)).map_or(0, |m| m.len());
        }
        Ok(bytes)
    }
}
