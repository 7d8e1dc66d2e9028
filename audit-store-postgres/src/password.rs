//! libpq's password file: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.
//!
//! It is read here, since the driver logs whole lines that it can't make sense of, with the passwords in them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;

/// No password file is as long.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file of `PGPASSFILE`, else `~/.pgpass`.
fn path() -> Option<PathBuf> {
    match std::env::var_os("PGPASSFILE") {
        Some(path) => Some(path.into()),
        None => Some(std::env::home_dir()?.join(".pgpass")),
    }
}

/// The file's text, or why it isn't used.
fn text(path: &Path) -> Result<String, String> {
    let say =
        |e: std::io::Error| format!("the password file {} can't be read: {e}", path.display());
    let file = File::open(path).map_err(say)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata().map_err(say)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "the password file {0} has mode {mode:03o}, so others may read it, and it isn't used; hint: chmod 600 {0}",
                path.display()
            ));
        }
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(say)?;
    Ok(text)
}

/// The password that the file has for these options.
pub(crate) fn find(options: &PgConnectOptions) -> Option<String> {
    let text = text(&path()?).ok()?;
    let socket = options
        .get_socket()
        .map(|socket| socket.display().to_string());
    let (port, user) = (options.get_port().to_string(), options.get_username());
    let database = options.get_database().unwrap_or(user);
    let wanted = |host| [host, port.as_str(), database, user];
    let hosts = match &socket {
        // libpq knows those of a socket by the folder, and the usual one by this name.
        Some(socket) => vec![socket.as_str(), "localhost"],
        None => vec![options.get_host()],
    };
    let mut lines = text.lines();
    lines.find_map(|line| {
        let mut hosts = hosts.iter();
        hosts.find_map(|host| password_in(line, wanted(host)))
    })
}

/// What a line says of these: host, port, database and user.
fn password_in(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line.chars();
    for wanted in wanted {
        let whole = rest.as_str();
        let (field, ended) = field(&mut rest);
        if !ended || (field != wanted && !whole.starts_with("*:")) {
            return None;
        }
    }
    let (password, _) = field(&mut rest);
    (!password.is_empty()).then_some(password)
}

/// The next field, in which `\` makes the next character one that means nothing; and whether a colon ended it.
fn field(rest: &mut std::str::Chars<'_>) -> (String, bool) {
    let mut field = String::new();
    while let Some(next) = rest.next() {
        match next {
            ':' => return (field, true),
            '\\' => field.push(rest.next().unwrap_or('\\')),
            other => field.push(other),
        }
    }
    (field, false)
}

/// What is the matter with a file that isn't used, for a password that the server doesn't take.
pub(crate) fn complaint() -> Option<String> {
    let named = std::env::var_os("PGPASSFILE").is_some();
    let path = path()?;
    // Nobody has to have the usual one.
    if !named && !path.exists() {
        return None;
    }
    text(&path).err()
}

#[cfg(test)]
mod tests {
    use super::password_in;

    #[test]
    fn a_line_is_read_otherwise_than_libpq_does() {
        let wanted = ["db.example", "5432", "audit", "ann"];
        for (line, password) in [
            ("db.example:5432:audit:ann:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("db.example:*:audit:*:secret", Some("secret")),
            ("*:5432:*:ann:a\\:b\\\\c", Some("a:b\\c")),
            ("*:*:*:*:ends:here", Some("ends")),
            ("*:*:*:\\ann:secret", Some("secret")),
            ("*:*:*:*: with blanks ", Some(" with blanks ")),
            ("#*:*:*:*:secret", None),
            ("*:*:*:*:", None),
            ("*:*:*:secret", None),
            ("secret", None),
            ("", None),
            ("\\*:*:*:*:secret", None),
            ("**:*:*:*:secret", None),
            ("other:5432:audit:ann:secret", None),
            ("db.example:5433:audit:ann:secret", None),
            ("db.example:5432:other:ann:secret", None),
            ("db.example:5432:audit:bob:secret", None),
            ("db.example\\:5432:audit:ann:secret", None),
        ] {
            assert_eq!(password_in(line, wanted).as_deref(), password, "{line:?}");
        }
    }
}
