//! What must not be recorded, and what must.

use std::fmt::Write as _;

use audit_capture::credentials::{
    BASE64_MARK, REDACTED, is_credential_name, kept_bytes, split_headers, split_query,
};
use audit_capture::{RequestHead, ResponseHead};
use proptest::prelude::*;

use crate::support::header;

const SECRET: &str = "s3cr3t-v4lue";

#[test]
fn a_credential_header_is_recorded() {
    for name in [
        "Authorization",
        "authorization",
        "AUTHORIZATION",
        " Authorization ",
        "Authorization\0",
        "Authorization\t",
        "Proxy-Authorization",
        "x-api-key",
        "X_Api_Key",
        "X-API-KEY",
        "api-key",
        "apikey",
        "x-goog-api-key",
        "X-Goog-Iam-Authorization-Token",
        "Cookie",
        "Set-Cookie",
        "set-cookie2",
        "x-amz-security-token",
        "x-auth-token",
        "X-Vault-Token",
        "x-functions-key",
        "Ocp-Apim-Subscription-Key",
        "x-client-secret",
        "cf-access-client-secret",
        "helicone-auth",
        "x-portkey-api-key",
        "myaccesstoken",
        "x-csrf-token",
        "X.Session.Token",
        "x-my-password",
        "X-Hub-Signature",
    ] {
        let (kept, credentials) = split_headers(&[header(name, SECRET)]);
        assert_eq!(kept, [(name.to_owned(), REDACTED.to_owned())], "{name:?}");
        assert_eq!(credentials.len(), 1, "{name:?}");
        assert_eq!(credentials[0].expose(), SECRET.as_bytes());
        assert!(!format!("{credentials:?}").contains(SECRET));
    }
}

#[test]
fn a_credential_under_a_harmless_name_is_recorded() {
    for (name, value) in [
        ("x-forwarded-auth-info", "Bearer s3cr3t"),
        ("x-upstream", "  bearer s3cr3t"),
        ("x-upstream", "Basic czNjcjN0"),
        ("x-openai", "sk-proj-s3cr3t"),
        (
            "Sec-WebSocket-Protocol",
            "realtime, openai-insecure-api-key.sk-s3cr3t",
        ),
    ] {
        let (kept, credentials) = split_headers(&[header(name, value)]);
        assert_eq!(kept[0].1, REDACTED, "{name}: {value}");
        assert_eq!(credentials.len(), 1);
    }
}

#[test]
fn an_innocent_header_is_lost() {
    for (name, value) in [
        ("content-type", "application/json"),
        ("openai-organization", "org-1"),
        ("openai-project", "proj_1"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-ratelimit-tokens-limit", "1000"),
        ("x-ratelimit-remaining-tokens", "1"),
        ("x-session-id", "abc"),
        ("session_id", "abc"),
        ("x-request-id", "req_1"),
        ("idempotency-key", "7"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("WWW-Authenticate", "Basic realm=\"x\""),
        ("proxy-authenticate", "Basic realm=\"x\""),
        ("sec-websocket-protocol", "realtime"),
        ("user-agent", "OpenAI/Python 2.1"),
        ("x-author", "me"),
        ("monkey-business", "yes"),
        ("", ""),
    ] {
        let (kept, credentials) = split_headers(&[header(name, value)]);
        assert_eq!(kept, [(name.to_owned(), value.to_owned())]);
        assert!(credentials.is_empty(), "{name}");
    }
}

#[test]
fn a_url_in_a_header_carries_a_credential() {
    let (kept, credentials) = split_headers(&[
        header("Location", "https://u:s3cr3t@h.example/p?sig=s3cr3t&x=1"),
        header("referer", "https://h.example/?api%5Fkey=s3cr3t#a"),
    ]);
    assert_eq!(
        kept[0].1,
        "https://[redacted]@h.example/p?sig=[redacted]&x=1"
    );
    assert_eq!(kept[1].1, "https://h.example/?api%5Fkey=[redacted]#a");
    assert_eq!(credentials.len(), 3);
}

#[test]
fn a_parameter_is_treated_wrongly() {
    for (given, recorded, count) in [
        ("/v1/models?key=s3cr3t", "/v1/models?key=[redacted]", 1),
        (
            "/v1?a=1&API_KEY=s3cr3t&b=2",
            "/v1?a=1&API_KEY=[redacted]&b=2",
            1,
        ),
        ("/v1?%6Bey=s3cr3t", "/v1?%6Bey=[redacted]", 1),
        ("/v1?%256Bey=s3cr3t", "/v1?%256Bey=[redacted]", 1),
        ("/v1?k%65%79=s3cr3t", "/v1?k%65%79=[redacted]", 1),
        ("/v1?+key+=s3cr3t", "/v1?+key+=[redacted]", 1),
        ("/v1?key%00=s3cr3t", "/v1?key%00=[redacted]", 1),
        (
            "/v1?access-token=s3cr3t;x=1",
            "/v1?access-token=[redacted];x=1",
            1,
        ),
        ("/v1?x=1;token=s3cr3t", "/v1?x=1;token=[redacted]", 1),
        ("/v1?x=1?key=s3cr3t", "/v1?x=1?key=[redacted]", 1),
        ("/v1?key=s3cr3t=tail", "/v1?key=[redacted]", 1),
        ("/v1#access_token=s3cr3t", "/v1#access_token=[redacted]", 1),
        ("/v1?key%3Ds3cr3t", "/v1?[redacted]", 1),
        ("/v1;key=s3cr3t/models", "/v1;key=[redacted]/models", 1),
        (
            "/v1?X-Amz-Signature=s3cr3t&X-Amz-Credential=s3cr3t&X-Amz-Date=1",
            "/v1?X-Amz-Signature=[redacted]&X-Amz-Credential=[redacted]&X-Amz-Date=1",
            2,
        ),
        (
            "/v1?key=s3cr3t&key=s3cr3t",
            "/v1?key=[redacted]&key=[redacted]",
            2,
        ),
        ("http://u:s3cr3t@h/p", "http://[redacted]@h/p", 1),
        ("http://u@s3cr3t@h/p", "http://[redacted]@h/p", 1),
        ("//u:s3cr3t@h/p", "//[redacted]@h/p", 1),
        ("u:s3cr3t@h:443", "[redacted]@h:443", 1),
        ("/v1/models?alt=sse&page=2", "/v1/models?alt=sse&page=2", 0),
        (
            "/a//b@c?monkey=1&max_token=5",
            "/a//b@c?monkey=1&max_token=5",
            0,
        ),
        ("/v1?key=", "/v1?key=", 0),
        ("/v1?key", "/v1?key", 0),
        ("/%zz%?%=%", "/%zz%?%=%", 0),
        ("", "", 0),
        ("*", "*", 0),
    ] {
        let (path, credentials) = split_query(given);
        assert_eq!(path, recorded, "{given}");
        assert_eq!(credentials.len(), count, "{given}");
    }
}

#[test]
fn a_secret_is_printed() {
    let headers = vec![header("authorization", SECRET)];
    let request = RequestHead::new("POST", format!("/v1?key={SECRET}"), headers.clone());
    let response = ResponseHead::new(200, headers);
    assert!(!format!("{request:?} {response:?}").contains(SECRET));
}

proptest! {
    #[test]
    fn a_kept_header_value_is_changed(name in "[a-z-]{0,20}", value in any::<Vec<u8>>(), marked in any::<bool>()) {
        let value = if marked { [BASE64_MARK.as_bytes(), &value].concat() } else { value };
        let (kept, credentials) = split_headers(&[(name, value.clone())]);
        if credentials.is_empty() {
            prop_assert_eq!(kept_bytes(&kept[0].1), value);
        } else {
            prop_assert!(!kept[0].1.is_empty());
        }
    }

    #[test]
    fn redacting_twice_changes_something(target in "[a-zA-Z0-9/?&;=#%+@:. _-]{0,60}") {
        let (once, _) = split_query(&target);
        let (twice, _) = split_query(&once);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_hostile_target_panics(target in any::<String>()) {
        let (_, credentials) = split_query(&target);
        prop_assert!(credentials.len() <= target.len());
        prop_assert_eq!(is_credential_name(&target), is_credential_name(&target.to_ascii_uppercase()));
    }

    #[test]
    fn a_secret_survives_any_spelling_of_its_name(bits in any::<u16>(), escape in any::<u8>()) {
        let mut name = String::new();
        for (at, c) in "access_token".chars().enumerate() {
            if escape >> (at % 8) & 1 == 1 {
                write!(name, "%{:02X}", c as u32).unwrap();
            } else if bits >> at & 1 == 1 {
                name.push(c.to_ascii_uppercase());
            } else {
                name.push(c);
            }
        }
        let (path, credentials) = split_query(&format!("/v1?x=1&{name}={SECRET}&y=2"));
        prop_assert!(!path.contains(SECRET), "{}", path);
        prop_assert_eq!(credentials.len(), 1);
    }
}
