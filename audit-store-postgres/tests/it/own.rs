//! A server of a test's own: one that can be set up, stopped and started as the test likes.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

const PASSWORD: &str = "of-a-test";

/// A server; it ends with the value, and with the process.
pub(crate) struct OwnServer {
    dir: TempDir,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    pub(crate) port: u16,
    child: Option<Child>,
}

/// The folder of the server's programs; `None`, with a word about it, where there is none and none is promised.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn programs() -> Option<PathBuf> {
    let found = audit_testkit::postgres::programs();
    if found.is_none() {
        assert!(
            std::env::var_os("AUDIT_TEST_SERVICES").is_none(),
            "there is no initdb, and AUDIT_TEST_SERVICES is set"
        );
        println!("skipped: there is no initdb");
    }
    found
}

/// User and group that the server runs as, where this is root: it refuses to be root.
fn other_user() -> Option<(u32, u32)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if uid.split_whitespace().nth(1) != Some("0") {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let of = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}

impl OwnServer {
    /// A server that runs, with these settings.
    pub(crate) async fn start(settings: &[&str]) -> Option<Self> {
        let bin = programs()?;
        let dir = tempfile::tempdir().unwrap();
        let user = other_user();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Self {
            dir,
            bin,
            user,
            port,
            child: None,
        };
        server.file("password", PASSWORD);
        let made = server
            .command("initdb")
            .args([
                "-D",
                "data",
                "-U",
                "audit",
                "--pwfile=password",
                "--auth=scram-sha-256",
            ])
            .args(["--encoding=UTF8", "--locale=C", "--no-sync"])
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "initdb failed");
        server.run(settings).await;
        Some(server)
    }

    /// The program as the server's user, in the server's directory. A server ends with the thread that started it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if let Some((uid, gid)) = self.user {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.arg("--clear-groups");
        }
        command
            .arg(self.bin.join(program))
            .current_dir(self.dir.path());
        command
    }

    /// Writes a file that only the server's user may read.
    pub(crate) fn file(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Starts it again with other settings.
    pub(crate) async fn run(&mut self, settings: &[&str]) {
        self.stop();
        let mut command = self.command("postgres");
        command.args(["-D", "data", "-p", &self.port.to_string()]);
        command.args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
        ]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        for _ in 0..600 {
            let options: PgConnectOptions = self
                .url("127.0.0.1", "sslmode=prefer")
                .replace("/audit?", "/postgres?")
                .parse()
                .unwrap();
            if let Ok(mut connection) = options.disable_statement_logging().connect().await {
                // It is there already when the server was started again.
                drop(
                    sqlx::raw_sql("CREATE DATABASE audit")
                        .execute(&mut connection)
                        .await,
                );
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "the server didn't come up: {}",
            fs::read_to_string(self.dir.path().join("log")).unwrap()
        );
    }

    /// Ends it at once, as a failure would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let killed = Command::new("kill")
                .args(["-QUIT", &child.id().to_string()])
                .status();
            assert!(killed.unwrap().success());
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self, host: &str, options: &str) -> String {
        format!(
            "postgres://audit:{PASSWORD}@{host}:{}/audit?{options}",
            self.port
        )
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.stop();
    }
}
