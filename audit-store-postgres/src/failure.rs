//! What an error of the server, of the driver or of the network means to the log.

use audit_core::{Error, ErrorKind};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::password;
use crate::url::PostgresUrl;

/// What goes wrong inside an operation, before it is said where.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The engine, or the way to it.
    Engine(sqlx::Error),
    /// The store itself.
    Store(Error),
    /// Nobody answered in time.
    Silence,
}

pub(crate) type Found<T> = Result<T, Failure>;

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// The server's own answer.
    pub(crate) fn answer(&self) -> Option<&PgDatabaseError> {
        match self {
            Self::Engine(sqlx::Error::Database(e)) => e.try_downcast_ref(),
            _ => None,
        }
    }

    /// Whether the server has refused a statement, and certainly undone it.
    ///
    /// An error of severity `ERROR` rolls back; after a commit record is written the server raises none. What ends the
    /// connection may come behind a commit, and two codes say that the outcome isn't known.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Store(_) | Self::Engine(sqlx::Error::Encode(_)) => true,
            Self::Silence => false,
            Self::Engine(_) => self.answer().is_some_and(|e| {
                matches!(e.severity(), PgSeverity::Error) && !matches!(e.code(), "40003" | "08007")
            }),
        }
    }

    /// Whether the connection is as good as before.
    pub(crate) fn leaves_connection(&self) -> bool {
        match self {
            Self::Store(_) => true,
            Self::Silence => false,
            Self::Engine(_) => self
                .answer()
                .is_some_and(|e| matches!(e.severity(), PgSeverity::Error)),
        }
    }

    /// The error for callers: nothing was written.
    pub(crate) fn said(self, doing: &str, url: &PostgresUrl) -> Error {
        let error = match self {
            Self::Store(error) => return error,
            Self::Silence => {
                return Error::unavailable(format!(
                    "{doing} {url}: the server doesn't answer; hint: see whether it is reachable, or overloaded"
                ));
            }
            Self::Engine(error) => error,
        };
        let (kind, what) = match &error {
            sqlx::Error::Database(e) => {
                let code = e.code().unwrap_or_default().into_owned();
                by_code(&code, e.message())
            }
            sqlx::Error::Io(e) => by_io(e),
            sqlx::Error::Tls(e) if e.to_string().contains("does not support TLS") => (
                ErrorKind::Unavailable,
                "the server has no TLS, which is asked for; hint: turn `ssl` on there, or say sslmode=disable".to_owned(),
            ),
            sqlx::Error::Tls(_) => (
                ErrorKind::Unavailable,
                "TLS can't be set up; hint: see the files that sslrootcert, sslcert and sslkey name".to_owned(),
            ),
            sqlx::Error::Configuration(_) => (
                ErrorKind::Unavailable,
                "the connection's settings don't fit together".to_owned(),
            ),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => (
                ErrorKind::Corrupt,
                "a stored value has the wrong type".to_owned(),
            ),
            sqlx::Error::Protocol(_) => (
                ErrorKind::Unavailable,
                "what answers doesn't speak as a PostgreSQL server does".to_owned(),
            ),
            _ => (ErrorKind::Unavailable, "the driver failed".to_owned()),
        };
        Error::new(kind, format!("{doing} {url}: {what}")).because(error)
    }
}

/// By SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn by_code(code: &str, message: &str) -> (ErrorKind, String) {
    use ErrorKind::{Corrupt, Invalid, NotFound, Unavailable};
    let class = code.get(..2).unwrap_or_default();
    if code == "28P01"
        && let Some(complaint) = password::complaint()
    {
        return (
            Unavailable,
            format!("the server doesn't take the password; {complaint}"),
        );
    }
    let (kind, what) = match (class, code) {
        (_, "28P01") => (
            Unavailable,
            "the server doesn't take the password; hint: it comes from the URL, PGPASSWORD, or the \
             file of PGPASSFILE, else ~/.pgpass (mode 0600)",
        ),
        ("28", _) if message.contains("no encryption") => (
            Unavailable,
            "the server takes no connection without TLS from here; hint: leave sslmode out, or say verify-full",
        ),
        ("28", _) => (
            Unavailable,
            "the server doesn't let this user in from here; hint: see its pg_hba.conf",
        ),
        (_, "3D000") => (
            NotFound,
            "there is no such database; hint: CREATE DATABASE is the administrator's",
        ),
        (_, "42501") => (
            Unavailable,
            "this user may not do that; hint: sql/roles.sql of audit-store-postgres says which role may do what",
        ),
        (_, "42P01" | "42703" | "3F000") => (
            Corrupt,
            "a table of the store is missing or has other columns",
        ),
        (_, "53100") => (Unavailable, "the server has no space left"),
        (_, "53300") => (
            Unavailable,
            "the server has too many connections; hint: max_connections there, or fewer processes",
        ),
        (_, "53200") => (Unavailable, "the server has no memory left"),
        (_, "55P03") => (
            Unavailable,
            "another transaction keeps the log locked; hint: pg_locks and pg_stat_activity say whose",
        ),
        (_, "57014") => (
            Unavailable,
            "the server gave the statement up after its time",
        ),
        (_, "57P01" | "57P02" | "57P03") => (Unavailable, "the server is starting or stopping"),
        (_, "25006") => (
            Unavailable,
            "the server takes no writes; hint: a standby doesn't, the URL has to name the primary",
        ),
        ("XX", "XX001" | "XX002") => (Corrupt, "the server finds its own files damaged"),
        ("22" | "23", _) => (Invalid, "a value is not what the schema asks for"),
        _ => (Unavailable, "the server refused"),
    };
    (kind, what.to_owned())
}

fn by_io(error: &std::io::Error) -> (ErrorKind, String) {
    let text = error.to_string();
    let what = if text.contains("UnknownIssuer") {
        "the server's certificate is not signed by anyone who is trusted; hint: sslrootcert=FILE names the authority"
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        "the server's certificate is for another name; hint: the URL has to name the host as the certificate does"
    } else if text.contains("invalid peer certificate") {
        "the server's certificate is not good"
    } else if text.contains("lookup") || text.contains("resolve") {
        "the host's name can't be resolved"
    } else {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                "nothing listens there; hint: is the server running, and are host and port right?"
            }
            std::io::ErrorKind::NotFound => "there is no such socket or file",
            std::io::ErrorKind::PermissionDenied => "permission denied",
            _ => "the connection was lost",
        }
    };
    (ErrorKind::Unavailable, what.to_owned())
}
