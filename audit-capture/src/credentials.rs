//! Telling credentials from what may be recorded.
//!
//! In doubt a value counts as a credential: a lost header value is a small loss, a recorded key is a breach. Not found
//! are credentials in bodies, in path segments, and under names that say nothing.
//!
//! `openai-organization`, `openai-project` and their like stay: they say who pays, and open nothing.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::api::percent_decoded;

/// Stands where a credential stood.
pub const REDACTED: &str = "[redacted]";

/// What a recorded header value starts with when the rest is the base64 of its bytes.
pub const BASE64_MARK: &str = "base64:";

/// A credential that was taken out; wiped when dropped, never printed.
#[derive(Clone)]
#[non_exhaustive]
pub struct Credential {
    /// Where it stood: the header's or parameter's name as it was written, or `userinfo`.
    pub name: String,
    value: Zeroizing<Vec<u8>>,
}

impl Credential {
    fn new(name: &str, value: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            value: Zeroizing::new(value.to_vec()),
        }
    }

    /// The bytes; the name is to be seen at every place that uses them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.value
    }
}

impl Credential {
    /// The key itself, without the word `Bearer`, so that it is the same one in `authorization` and in `x-api-key`.
    #[must_use]
    pub fn expose_key(&self) -> &[u8] {
        let value = self.value.trim_ascii();
        match value.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
            _ => value,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?}, …)", self.name)
    }
}

/// Names that hold a credential, in lower case and without anything but letters and digits, so that `X_Api_Key` is found
/// as `x-api-key` is.
const NAMES: &[&str] = &[
    "apikey",
    "assertion",
    "auth",
    "authentication",
    "authenticationinfo",
    "authorization",
    "bearer",
    "clientassertion",
    "cookie",
    "cookie2",
    "credential",
    "credentials",
    "jwt",
    "key",
    "passwd",
    "password",
    "proxyauthenticationinfo",
    "proxyauthorization",
    "pwd",
    "secret",
    "setcookie",
    "setcookie2",
    "sig",
    "signature",
    "token",
    "xapikey",
    "xamzcredential",
    "xamzsignature",
    "xauth",
    "xgoogcredential",
    "xgoogsignature",
    "xsignature",
];

/// Ends that mark a credential even where nothing parts them from the rest: `myaccesstoken`.
const ENDS: &[&str] = &[
    "accesskey",
    "accesskeyid",
    "accesstoken",
    "apikey",
    "authorization",
    "authtoken",
    "clientsecret",
    "idtoken",
    "password",
    "refreshtoken",
    "secretkey",
    "securitytoken",
    "sessiontoken",
    "subscriptionkey",
];

/// Last words that mark a credential: `x-anything-token`.
const WORDS: &[&str] = &[
    "assertion",
    "auth",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "jwt",
    "key",
    "passphrase",
    "password",
    "secret",
    "signature",
    "token",
];

/// Names that end so and open nothing.
const HARMLESS: &[&str] = &[
    "idempotencykey",
    "xidempotencykey",
    "maxtoken",
    "pagetoken",
    "nextpagetoken",
    "promptcachekey",
    "secwebsocketkey",
    "surrogatekey",
];

/// How a value starts that is a credential under any name.
const STARTS: &[&str] = &["basic ", "bearer ", "sk-", "digest ", "negotiate "];

/// Headers whose value is a URL.
const URLS: &[&str] = &["contentlocation", "location", "referer", "origin", "link"];

/// Whether a header or parameter of this name holds a credential.
#[must_use]
pub fn is_credential_name(name: &str) -> bool {
    names_credential(name, &bare(name))
}

/// The same, of a name whose letters and digits are at hand.
fn names_credential(name: &str, bare: &str) -> bool {
    if HARMLESS.contains(&bare) {
        return false;
    }
    let last = name
        .as_bytes()
        .rsplit(|b| !b.is_ascii_alphanumeric())
        .find(|word| !word.is_empty())
        .unwrap_or_default();
    NAMES.contains(&bare)
        || ENDS.iter().any(|end| bare.ends_with(end))
        || WORDS
            .iter()
            .any(|word| last.eq_ignore_ascii_case(word.as_bytes()))
}

/// Parts headers, of a request or a response, into what may be recorded and what must not.
///
/// Every header stays, in its order and with its name; a credential's value is [`REDACTED`]. A value that isn't UTF-8 (or
/// that starts with [`BASE64_MARK`] by itself) is written as that mark and the base64 of its bytes, so nothing is lost.
#[must_use]
pub fn split_headers(headers: &[(String, Vec<u8>)]) -> (Vec<(String, String)>, Vec<Credential>) {
    let mut credentials = Vec::new();
    let kept = headers
        .iter()
        .map(|(name, value)| {
            let bare = bare(name);
            if names_credential(name, &bare) || is_credential_value(&bare, value) {
                credentials.push(Credential::new(name, value));
                return (name.clone(), REDACTED.to_owned());
            }
            let value = match std::str::from_utf8(value) {
                Ok(text) if URLS.contains(&bare.as_str()) => {
                    let (url, found) = split_query(text);
                    credentials.extend(found);
                    url
                }
                Ok(text) if !text.starts_with(BASE64_MARK) => text.to_owned(),
                _ => format!("{BASE64_MARK}{}", STANDARD.encode(value)),
            };
            (name.clone(), value)
        })
        .collect();
    (kept, credentials)
}

/// The bytes of a header value that [`split_headers`] kept.
#[must_use]
pub fn kept_bytes(kept: &str) -> Vec<u8> {
    kept.strip_prefix(BASE64_MARK)
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .unwrap_or_else(|| kept.as_bytes().to_vec())
}

/// The letters and digits of a name, in lower case.
fn bare(name: &str) -> String {
    let mut bare = String::with_capacity(name.len());
    bare.extend(
        name.bytes()
            .filter(u8::is_ascii_alphanumeric)
            .map(|b| char::from(b.to_ascii_lowercase())),
    );
    bare
}

/// Whether a value is a credential under the name that has these letters and digits.
fn is_credential_value(bare: &str, value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let starts = |start: &str| {
        value
            .get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
    };
    // A challenge starts like the credential that it asks for: `Basic realm="…"`.
    let challenge = matches!(bare, "wwwauthenticate" | "proxyauthenticate");
    if STARTS.iter().any(|start| starts(start)) && !challenge {
        return true;
    }
    // Browsers can't set headers on a WebSocket, so keys travel as a subprotocol.
    bare == "secwebsocketprotocol"
        && String::from_utf8_lossy(value)
            .to_ascii_lowercase()
            .contains("key")
}

/// Takes credentials out of a request target or URL: values of parameters whose name says so, and the userinfo of an
/// authority. Everything else stays byte for byte.
///
/// Parameters are looked for after `?`, `&`, `;` and `#`, and with their names decoded as often as anyone may decode them.
#[must_use]
pub fn split_query(path_and_query: &str) -> (String, Vec<Credential>) {
    let mut credentials = Vec::new();
    let target = without_userinfo(path_and_query, &mut credentials);
    let mut recorded = String::with_capacity(target.len());
    let mut rest = target.as_str();
    let mut in_path = true;
    loop {
        // Before the query a slash ends a parameter too: `/v1;key=abc/models`.
        let end = rest.find(|c| matches!(c, '?' | '&' | ';' | '#') || (in_path && c == '/'));
        let (piece, tail) = rest.split_at(end.unwrap_or(rest.len()));
        parameter(piece, &mut recorded, &mut credentials);
        let mut tail = tail.chars();
        let Some(separator) = tail.next() else {
            return (recorded, credentials);
        };
        recorded.push(separator);
        in_path &= !matches!(separator, '?' | '#');
        rest = tail.as_str();
    }
}

fn parameter(piece: &str, recorded: &mut String, credentials: &mut Vec<Credential>) {
    if let Some((name, value)) = piece.split_once('=') {
        let decoded = decoded(name);
        if is_credential_name(&decoded) && !value.is_empty() {
            credentials.push(Credential::new(&decoded, value.as_bytes()));
            recorded.push_str(name);
            recorded.push('=');
            recorded.push_str(REDACTED);
            return;
        }
    } else if piece.contains('%')
        // `key%3Dabc` is no parameter to a strict server, and a key nevertheless.
        && let decoded = decoded(piece)
        && let Some((name, _)) = decoded.split_once('=')
        && is_credential_name(name)
    {
        credentials.push(Credential::new(name, piece.as_bytes()));
        recorded.push_str(REDACTED);
        return;
    }
    recorded.push_str(piece);
}

/// `name` decoded until nothing changes, though at most four times; `+` is a space in a query.
fn decoded(name: &str) -> String {
    let mut name = name.replace('+', " ");
    for _ in 0..4 {
        let next = percent_decoded(&name).into_owned();
        if next == name {
            break;
        }
        name = next;
    }
    name
}

/// Redacts `user:password@` of an absolute URL, of `//authority` and of the authority alone, as `CONNECT` has it.
fn without_userinfo(target: &str, credentials: &mut Vec<Credential>) -> String {
    let start = match target.find("//") {
        // Only a scheme can stand before an authority; a later `//` belongs to the path.
        Some(at)
            if target
                .get(..at)
                .is_some_and(|scheme| !scheme.contains(['/', '?', '#', '@'])) =>
        {
            at + 2
        }
        _ if !target.starts_with(['/', '?', '#']) => 0,
        _ => return target.to_owned(),
    };
    let (scheme, rest) = target.split_at(start);
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            credentials.push(Credential::new("userinfo", user.as_bytes()));
            format!("{scheme}{REDACTED}@{host}{path}")
        }
        None => target.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_the_key_that_it_bears() {
        let key = |value: &[u8]| {
            Credential::new("authorization", value)
                .expose_key()
                .to_vec()
        };
        assert_eq!(key(b"Bearer  sk-1 "), b"sk-1");
        assert_eq!(key(b"bearer sk-1"), b"sk-1");
        assert_eq!(key(b"sk-1"), b"sk-1");
        assert_eq!(key(b"Basic abc"), b"Basic abc");
        assert_eq!(key(b""), b"");
    }
}
