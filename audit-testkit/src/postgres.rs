//! A PostgreSQL server of a test's own: for what can't be done to one that others use.

use std::fmt::Display;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use tempfile::TempDir;

use crate::crash::pause;
use crate::full_disk::FullDisk;

const USER: &str = "audit";
const PASSWORD: &str = "a password of this test alone";
/// More often than recovery takes; it only turns a hang into a failure.
const TRIES: u32 = 1200;

/// A cluster in a folder, and its server as long as it runs.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    data: PathBuf,
    port: u16,
    /// Who the server runs as, where the test is root: PostgreSQL refuses to be.
    user: Option<String>,
    settings: Vec<String>,
    running: Option<Child>,
    /// A folder that goes with it.
    dir: Option<TempDir>,
}

/// The folder of the server's programs: `AUDIT_TEST_POSTGRES_BIN`, or Debian's newest.
#[must_use]
pub fn programs() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("AUDIT_TEST_POSTGRES_BIN") {
        return Some(dir.into());
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|version| {
            let number = version.file_name().to_str()?.parse().ok()?;
            let dir = version.path().join("bin");
            dir.join("initdb").is_file().then_some((number, dir))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, dir)| dir)
}

/// As [`programs`]; where there are none it says that the test is skipped, or fails if `AUDIT_TEST_SERVICES` promises them.
#[must_use]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub fn programs_or_skip() -> Option<PathBuf> {
    let found = programs();
    if found.is_none() {
        assert!(
            std::env::var_os("AUDIT_TEST_SERVICES").is_none(),
            "there is no initdb, and AUDIT_TEST_SERVICES is set"
        );
        println!("skipped: there is no initdb");
    }
    found
}

fn failed(what: &str, output: &std::process::Output) -> io::Error {
    io::Error::other(format!(
        "{what}: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}

impl PostgresServer {
    /// Makes a cluster in the folder `at`, which must exist, with the server's programs in `programs`. `settings` are
    /// those of `postgresql.conf`, as `name=value`. It isn't started yet.
    ///
    /// # Errors
    ///
    /// If the server's programs refuse.
    pub fn new(at: &Path, programs: PathBuf, settings: &[&str]) -> io::Result<Self> {
        let at = fs::canonicalize(at)?;
        let root = fs::metadata(&at)?.uid() == 0;
        let mut user = None;
        let data = at.join("data");
        fs::create_dir(&data)?;
        let password = at.join("password");
        fs::write(&password, PASSWORD)?;
        if root {
            let name = ["postgres", "nobody"]
                .into_iter()
                .find_map(|name| ids(name).map(|ids| (name, ids)));
            let (name, (uid, gid)) =
                name.ok_or_else(|| io::Error::other("neither postgres nor nobody is a user"))?;
            // That user goes through the folder, and owns what is in it.
            fs::set_permissions(&at, fs::Permissions::from_mode(0o711))?;
            for path in [&data, &password] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
            user = Some(name.to_owned());
        }
        let server = Self {
            programs,
            data,
            port: free_port()?,
            user,
            settings: settings.iter().map(|&s| s.to_owned()).collect(),
            running: None,
            dir: None,
        };
        let output = server
            .command("initdb")
            .arg("-D")
            .arg(&server.data)
            .args(["-U", USER, "--auth=scram-sha-256", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync"])
            .arg(format!("--pwfile={}", password.display()))
            .output()?;
        if output.status.success() {
            Ok(server)
        } else {
            Err(failed("initdb", &output))
        }
    }

    /// A server in a folder that goes with it, which runs with these settings. `None` as [`programs_or_skip`].
    ///
    /// # Errors
    ///
    /// As [`PostgresServer::new`] and [`PostgresServer::start`].
    pub fn started(settings: &[&str]) -> io::Result<Option<Self>> {
        let Some(programs) = programs_or_skip() else {
            return Ok(None);
        };
        let dir = TempDir::new()?;
        let mut server = Self::new(dir.path(), programs, settings)?;
        server.dir = Some(dir);
        server.start(None)?;
        Ok(Some(server))
    }

    /// Starts it again, after a crash, with these settings instead of those that it had.
    ///
    /// # Errors
    ///
    /// As [`PostgresServer::crash`] and [`PostgresServer::start`].
    pub fn restart(&mut self, settings: &[&str]) -> io::Result<()> {
        self.crash()?;
        self.settings = settings.iter().map(|&s| s.to_owned()).collect();
        self.start(None)
    }

    /// Writes a file in its data directory that only its user may read.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn write_file(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.data.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        match self.user.as_deref().and_then(ids) {
            Some((uid, gid)) => std::os::unix::fs::chown(&path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Starts the server, on `disk` if there is one, and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it doesn't come up.
    pub fn start(&mut self, disk: Option<&FullDisk>) -> io::Result<()> {
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        if let Some(disk) = disk {
            disk.of(&mut command);
        }
        let log = fs::File::create(self.log())?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut tries = 0;
        while !answers(self.address()) {
            tries += 1;
            if child.try_wait()?.is_some() || tries > TRIES {
                drop(child.kill());
                return Err(io::Error::other(format!(
                    "PostgreSQL did not come up: {}",
                    fs::read_to_string(self.log())?
                )));
            }
            pause(Duration::from_millis(50));
        }
        self.running = Some(child);
        Ok(())
    }

    /// Stops it as after a power cut: no shutdown checkpoint, and recovery at the next start. No backend outlives it.
    ///
    /// # Errors
    ///
    /// If it can't be told, or doesn't end.
    pub fn crash(&mut self) -> io::Result<()> {
        self.signal("QUIT")
    }

    /// Stops it in an orderly way: sessions are ended, and it writes its last checkpoint.
    ///
    /// # Errors
    ///
    /// As [`PostgresServer::crash`].
    pub fn stop(&mut self) -> io::Result<()> {
        self.signal("INT")
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The URL of its database `postgres`, for its superuser, at `address`: its own, that of a
    /// [`Network`](crate::network::Network) before it, or another name and its port.
    #[must_use]
    pub fn url(&self, address: impl Display) -> String {
        let password = PASSWORD.replace(' ', "%20");
        format!("postgres://{USER}:{password}@{address}/postgres")
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it said of itself.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.data.with_file_name("log")
    }

    fn signal(&mut self, signal: &str) -> io::Result<()> {
        let Some(mut child) = self.running.take() else {
            return Ok(());
        };
        let output = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .output()?;
        if !output.status.success() {
            return Err(failed("kill", &output));
        }
        child.wait().map(drop)
    }

    /// One of its programs, as the user that may run it. The kernel ends it with the test, even if that is killed.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if let (Some(user), Some((_, gid))) = (&self.user, self.user.as_deref().and_then(ids)) {
            command
                .arg(format!("--reuid={user}"))
                .arg(format!("--regid={gid}"))
                .arg("--init-groups");
        }
        command.arg("--").arg(self.programs.join(program));
        // It may not enter the folder that the test runs in.
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Its data goes with the test's folder.
        drop(self.crash());
    }
}

/// User and group of a name.
fn ids(name: &str) -> Option<(u32, u32)> {
    let id = |flag| {
        let output = Command::new("id").args([flag, name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((id("-u")?, id("-g")?))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Whether a server there takes sessions: it answers a startup message with a request to authenticate, or lets nobody in
/// who comes without TLS.
/// <https://www.postgresql.org/docs/current/protocol-flow.html>
fn answers(address: SocketAddr) -> bool {
    let body = b"\0\x03\0\0user\0audit\0database\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).unwrap_or_default();
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(body)?;
        let mut answer = vec![0; 1024];
        let n = stream.read(&mut answer)?;
        answer.truncate(n);
        Ok(answer)
    };
    // While it starts or recovers it refuses with 57P03.
    ask().is_ok_and(|answer| {
        answer.first() == Some(&b'R') || memchr::memmem::find(&answer, b"\0C28000\0").is_some()
    })
}
