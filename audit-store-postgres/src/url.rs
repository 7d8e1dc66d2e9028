//! Which server, database and schema a URL names, and how to reach them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use audit_core::{Error, Result};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::password;

/// The schema of a log where the URL names none.
const SCHEMA: &str = "audit_trail";
/// What PostgreSQL cuts longer names to (`NAMEDATALEN` − 1), unseen.
const NAME_BYTES_MAX: usize = 63;
/// What is handed on to the driver.
const HANDED_ON: [&str; 9] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "application_name",
    "host",
    "port",
    "user",
    "dbname",
];

/// Where a log's store is: `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?OPTION=VALUE&…]`.
///
/// | option | |
/// |---|---|
/// | `schema` | the log's schema, one per log; `audit_trail` |
/// | `sslmode` | `verify-full` unless the server is on this machine; `verify-ca`, `require` and `disable` have to be said |
/// | `sslrootcert` | file of certificates that are trusted beside the system's |
/// | `sslcert`, `sslkey` | client certificate and its key |
/// | `unsafe_server` | `allow`: also a server that loses commits when its power fails (`fsync` or `full_page_writes` off) |
/// | `application_name`, `host`, `port`, `user`, `dbname` | as libpq |
///
/// What the URL leaves open comes from libpq's environment (`PGHOST`, `PGUSER`, `PGSSLMODE`, …); the password from
/// `PGPASSWORD` or the file of `PGPASSFILE`, else `~/.pgpass`, which only its owner may read.
///
/// Neither `Display` nor `Debug` shows the password.
#[derive(Clone)]
pub struct PostgresUrl {
    pub(crate) options: PgConnectOptions,
    schema: String,
    unsafe_server: bool,
    has_password: bool,
}

impl PostgresUrl {
    /// The log's schema.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The same server, database and options with another schema.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) for a name that no schema of a log has.
    pub fn with_schema(mut self, schema: &str) -> Result<Self> {
        check_schema(schema)?;
        schema.clone_into(&mut self.schema);
        Ok(self)
    }

    /// Whether the URL itself has a password, which then stands wherever the URL does.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.has_password
    }

    /// Whether a server is good enough that may lose what it committed.
    pub(crate) fn unsafe_server(&self) -> bool {
        self.unsafe_server
    }
}

impl FromStr for PostgresUrl {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        // Of a URL that can't be read nothing is repeated: anything in it may be the password.
        let refuse = |what: String| {
            Error::invalid(format!(
                "store URL {what}; hint: postgres://USER@HOST/DATABASE?schema=NAME"
            ))
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(refuse("doesn't begin with `postgres://`".to_owned()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut schema = SCHEMA.to_owned();
        let (mut unsafe_server, mut mode_said) = (false, std::env::var_os("PGSSLMODE").is_some());
        let mut handed_on = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "schema" => {
                    check_schema(value)?;
                    value.clone_into(&mut schema);
                }
                "unsafe_server" if value == "allow" => unsafe_server = true,
                "unsafe_server" => {
                    return Err(refuse(
                        "has unsafe_server, which can only be `allow`".to_owned(),
                    ));
                }
                "password" => {
                    return Err(refuse(
                        "has the password among its options; it stands behind the user, in PGPASSWORD or in ~/.pgpass"
                            .to_owned(),
                    ));
                }
                name if HANDED_ON.contains(&name) => {
                    mode_said |= name == "sslmode";
                    handed_on.push(option);
                }
                name => {
                    let name: String = name.chars().take(32).collect();
                    return Err(refuse(format!("has an unknown option {name:?}")));
                }
            }
        }
        let authority = base.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        let has_password = authority
            .rsplit_once('@')
            .and_then(|(user, _)| user.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty());
        let asks_file = !has_password && std::env::var("PGPASSWORD").is_err();
        if asks_file {
            // A placeholder, else the driver would read the file.
            handed_on.push("password=-");
        }
        let mut cleaned = base.to_owned();
        if !handed_on.is_empty() {
            cleaned.push('?');
            cleaned.push_str(&handed_on.join("&"));
        }
        let mut options = PgConnectOptions::from_str(&cleaned)
            .map_err(|e| refuse("can't be read".to_owned()).because(e))?;
        // The driver resolves names only; an address of version 6 has brackets in a URL and none elsewhere.
        let bare = options
            .get_host()
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .map(str::to_owned);
        if let Some(bare) = bare {
            options = options.host(&bare);
        }
        let local = is_local(&options);
        if !mode_said {
            options = options.ssl_mode(if local {
                PgSslMode::Prefer
            } else {
                PgSslMode::VerifyFull
            });
        } else if !local && matches!(options.get_ssl_mode(), PgSslMode::Allow | PgSslMode::Prefer) {
            return Err(refuse(
                "asks for an sslmode that goes on without TLS when somebody on the way says so; say verify-full, or \
                 disable if that is what is wanted"
                    .to_owned(),
            ));
        }
        if options.get_application_name().is_none() {
            options = options.application_name("audit-trail");
        }
        if asks_file {
            let found = password::find(&options).unwrap_or_default();
            options = options.password(&found);
        }
        Ok(Self {
            options,
            schema,
            unsafe_server,
            has_password,
        })
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let (user, host) = (options.get_username(), options.get_host());
        write!(f, "postgres://{user}@")?;
        match options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display())?,
            None if host.contains(':') => write!(f, "[{host}]:{}", options.get_port())?,
            None => write!(f, "{host}:{}", options.get_port())?,
        }
        // The server takes the user's name where no database is named.
        let database = options.get_database().unwrap_or(user);
        write!(f, "/{database}?schema={}", self.schema)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

/// Whether the way to the server stays on this machine.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Names that need no quoting anywhere, so that scripts and people can write them as they are.
fn check_schema(name: &str) -> Result<()> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with("pg_")
        && name != "information_schema";
    if fits {
        Ok(())
    } else {
        let name: String = name.chars().take(NAME_BYTES_MAX).collect();
        Err(Error::invalid(format!(
            "store URL has the schema {name:?}; hint: 1 to {NAME_BYTES_MAX} characters of a-z, 0-9 and _, no digit first, \
             and not pg_"
        )))
    }
}
