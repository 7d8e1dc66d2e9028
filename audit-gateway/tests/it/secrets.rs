//! Credentials pass to the provider, and stand nowhere in the log.

use crate::client::{exchange, post};
use crate::scripted::{Scripted, write};
use crate::support::Bench;

const KEY: &str = "sk-marker-5f1d0c7a";

#[tokio::test]
async fn credentials_reach_the_provider_and_no_record_and_equal_keys_have_equal_fingerprints() {
    let upstream = Scripted::start(vec![write(
        "HTTP/1.1 200 OK\r\nset-cookie: session=marker-set-cookie\r\nset-cookie: b=marker-second\r\n\
         content-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    )])
    .await;
    let bench = Bench::start(&upstream.base()).await;
    let requests = [
        (
            "/openai/v1/responses",
            format!("Authorization: Bearer {KEY}\r\nCookie: c=marker-cookie\r\n"),
        ),
        ("/anthropic/v1/messages", format!("x-api-key: {KEY}\r\n")),
        (
            "/anthropic/v1/messages",
            "X-Api-Key: sk-marker-other\r\n".to_owned(),
        ),
        (
            "/openai/v1/responses?api-version=1&api_key=marker-query&x=1",
            String::new(),
        ),
    ];
    for (path, headers) in &requests {
        let answer = exchange(bench.address, &post(path, headers, b"{}")).await;
        assert_eq!(answer.status, 200);
        let cookies: Vec<_> = answer
            .headers
            .iter()
            .filter(|(n, _)| n == "set-cookie")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(cookies, ["session=marker-set-cookie", "b=marker-second"]);
    }
    let seen = upstream.seen.lock().unwrap().clone();
    let seen: Vec<String> = seen
        .iter()
        .map(|r| String::from_utf8_lossy(r).into_owned())
        .collect();
    assert!(
        seen[0].contains(&format!(
            "Authorization: Bearer {KEY}\r\nCookie: c=marker-cookie\r\n"
        )),
        "{}",
        seen[0]
    );
    assert!(seen[1].contains(KEY) && seen[2].contains("sk-marker-other"));
    assert!(
        seen[3]
            .starts_with("POST /v1/responses?api-version=1&api_key=marker-query&x=1 HTTP/1.1\r\n")
    );

    let recorded = bench.exchanges(requests.len()).await;
    for exchange in &recorded {
        for event in [&exchange.request, &exchange.response] {
            let attributes = serde_json::to_string(&event.attributes).unwrap();
            let all = format!(
                "{attributes} {:?} {:?} {:?} {:?}",
                event.session_id, event.correlation, event.refs, event.actor
            );
            assert!(!all.contains("marker"), "a credential is in the log: {all}");
            for payload in &event.payloads {
                assert!(!String::from_utf8_lossy(&payload.bytes).contains("marker"));
            }
        }
    }
    let print = |n: usize| {
        let found = &recorded[n].request.attributes["audit.credential"];
        found
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["fingerprint"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        print(0)[0],
        print(1)[0],
        "one key in two headers has two fingerprints"
    );
    assert_ne!(print(1)[0], print(2)[0]);
    assert_eq!(print(0).len(), 2, "the cookie has a fingerprint too");
    assert_eq!(print(0)[0].len(), 64);
    assert_eq!(
        recorded[0].request.attributes["audit.credential"][0]["header"],
        "authorization"
    );
    assert_eq!(
        recorded[3].request.attributes["audit.credential"][0]["query"],
        "api_key"
    );
    assert_eq!(recorded[3].request.attributes["url.path"], "/v1/responses");
    assert_eq!(
        recorded[3].request.attributes["url.query"],
        "api-version=1&api_key=[redacted]&x=1"
    );
    let headers = recorded[0].request.attributes["http.request.header"]
        .as_array()
        .unwrap();
    assert!(headers.contains(&serde_json::json!(["authorization", "[redacted]"])));
}

#[tokio::test]
async fn answers_of_our_own_and_notices_hold_no_secret() {
    let address = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let bench = Bench::start(&format!("http://{address}")).await;
    let headers = format!("Authorization: Bearer {KEY}\r\n");
    for path in [
        "/openai/v1/responses?key=marker-query",
        "/nobody/v1?key=marker-query",
        "/openai/../x?key=marker-query",
    ] {
        let answer = exchange(bench.address, &post(path, &headers, b"{\"marker\":1}")).await;
        assert!(answer.status >= 400);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("marker"), "{text}");
        assert!(
            !text.contains(&address.port().to_string()),
            "an upstream's address went to a client: {text}"
        );
    }
    assert!(!format!("{:?}", bench.notices.lock().unwrap()).contains("marker"));
}
