//! What the studio refuses: names that lead elsewhere, other sites, other hosts, floods.

#![cfg(unix)]

mod common;

use common::{Server, limits, read};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn paths_that_lead_out_are_refused() {
    let server = Server::start();
    server.finished("a", 4);
    std::fs::create_dir(server.path("outside")).unwrap();
    std::fs::write(
        server.path("outside/recipe.toml"),
        "description = \"top secret\"",
    )
    .unwrap();
    std::os::unix::fs::symlink(server.path("outside"), server.runs.join("link")).unwrap();
    let tries = [
        "/assets/../secret.txt",
        "/assets/..%2fsecret.txt",
        "/assets/%2e%2e/%2e%2e/secret.txt",
        "/assets/..%5c..%5csecret.txt",
        "/assets//etc/passwd",
        "/assets/style.css%00",
        "/../secret.txt",
        "/api/runs/..",
        "/api/runs/../secret.txt",
        "/api/runs/..%2foutside",
        "/api/runs/%2e%2e%2foutside",
        "/api/runs/%252e%252e%252foutside",
        "/api/runs/a%2f..%2f..%2foutside",
        "/api/runs/..%2foutside/events",
        "/api/runs/..%2foutside/report",
        "/api/runs/%2fetc",
        "/api/runs/a%00",
        "/api/runs/.studio",
        "/api/runs/%ff",
        "/api/runs/link",
        "/api/compare?a=a&b=../outside",
        "/api/compare?a=a&b=..%2foutside",
    ];
    for path in tries {
        let reply = server.get(path);
        assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
        assert!(
            !reply.body.contains("top secret") && !reply.body.contains("root:"),
            "{path}"
        );
    }
    for name in [
        "../x", "..\\\\x", "/abs", ".studio", "a\\u0000", "CON", "-rf",
    ] {
        let reply = server.post("/api/runs", &server.form("NAME").replace("NAME", name));
        assert_eq!(reply.status, 400, "{name}: {reply:?}");
    }
    let sides = r#"{"sides":["../outside",""],"prompt":"x","max_tokens":1}"#;
    assert_eq!(server.post("/api/generate", sides).status, 400);
    let listed = server.get("/api/runs").json();
    assert_eq!(listed["runs"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn other_sites_are_refused() {
    let server = Server::start();
    let body = server.form("x");
    let own = format!("http://{}", server.address);
    let refused: &[&[(&str, &str)]] = &[
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
        &[("origin", "https://127.0.0.1")],
        &[("origin", "http://127.0.0.1:1")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("x-studio-csrf", "")],
        &[("x-studio-csrf", "0000")],
    ];
    for headers in refused {
        let reply = server.send("POST", "/api/runs", headers, &body);
        assert_eq!(reply.status, 403, "{headers:?}: {reply:?}");
        let reply = server.send("POST", "/api/runs/x/stop", headers, "{}");
        assert_eq!(reply.status, 403, "{headers:?}: {reply:?}");
    }
    let form = [("content-type", "text/plain")];
    assert_eq!(server.send("POST", "/api/runs", &form, &body).status, 415);
    for headers in [
        [("sec-fetch-site", "cross-site")],
        [("origin", "http://evil.example")],
    ] {
        assert_eq!(server.send("GET", "/api/runs", &headers, "").status, 403);
    }
    // A link from elsewhere may open the page itself; the page asks as itself.
    assert_eq!(
        server
            .send("GET", "/", &[("sec-fetch-site", "cross-site")], "")
            .status,
        200
    );
    let same = [("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(server.send("GET", "/api/runs", &same, "").status, 200);
    assert!(!server.runs.join("x").exists());
    assert_eq!(
        server.send("POST", "/api/runs/x/stop", &same, "{}").status,
        404
    );
    for method in ["PUT", "DELETE", "OPTIONS"] {
        assert!(
            (400..500).contains(&server.send(method, "/api/runs", &[], "").status),
            "{method}"
        );
    }
}

#[test]
fn other_hosts_are_refused() {
    let server = Server::start();
    let port = server.address.port();
    let names = [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        "127.0.0.1".to_owned(),
        format!("127.0.0.1:{}", port.wrapping_add(1)),
        format!("127.0.0.1.evil.example:{port}"),
        format!("10.0.0.1:{port}"),
        format!("localhost:{port}@evil.example"),
    ];
    for host in &names {
        for path in ["/", "/api/runs", "/assets/main.js"] {
            assert_eq!(
                server.send("GET", path, &[("host", host)], "").status,
                403,
                "{host}{path}"
            );
        }
    }
    let none = server.raw(b"GET /api/runs HTTP/1.1\r\nconnection: close\r\n\r\n");
    assert_eq!(none.status, 403);
    let two = format!(
        "GET / HTTP/1.1\r\nhost: {0}\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
        server.address
    );
    assert!((400..500).contains(&server.raw(two.as_bytes()).status));
    let whole = format!(
        "GET http://evil.example/ HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        server.address
    );
    assert!((400..500).contains(&server.raw(whole.as_bytes()).status));
    let local = format!("localhost:{port}");
    assert_eq!(
        server
            .send("GET", "/api/runs", &[("host", &local)], "")
            .status,
        200
    );
}

#[test]
fn bodies_are_bounded_in_size_time_and_keys() {
    let server = Server::start();
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
    assert_eq!(server.post("/api/runs", &large).status, 413);
    let chunked = [("content-length", ""), ("transfer-encoding", "chunked")];
    let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    assert_eq!(
        server.send("POST", "/api/runs", &chunked, &chunks).status,
        413
    );
    let begun = Instant::now();
    let slow = server.send("POST", "/api/runs", &[("content-length", "100")], "{");
    assert_eq!(slow.status, 408, "{slow:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));

    let bodies = [
        (
            "/api/runs",
            r#"{"name":"x","recipe":{},"dir":"/tmp"}"#,
            "dir",
        ),
        (
            "/api/runs",
            r#"{"name":"x","recipe":{"methd":{}}}"#,
            "methd",
        ),
        (
            "/api/runs",
            r#"{"name":"x","recipe":{"method":{"name":"lora","rnk":1}}}"#,
            "rank",
        ),
        (
            "/api/runs",
            r#"{"name":"x","recipe":{"output":{"dir":"/tmp"}}}"#,
            "output",
        ),
        (
            "/api/runs",
            r#"{"name":"x","recipe":{"method":{"name":"nope"}}}"#,
            "nope",
        ),
        ("/api/runs", "[]", "request"),
        ("/api/runs", "{", "request"),
        (
            "/api/generate",
            r#"{"sides":["",""],"prompt":"x","max_tokens":1,"host":"/"}"#,
            "host",
        ),
        (
            "/api/generate",
            r#"{"sides":["",""],"prompt":"x","max_tokens":9999}"#,
            "max_tokens",
        ),
        ("/api/runs/x/stop", r#"{"pid":1}"#, "pid"),
    ];
    for (path, body, told) in bodies {
        let reply = server.post(path, body);
        assert_eq!(reply.status, 400, "{path} {body}: {reply:?}");
        assert!(reply.body.contains(told), "{body}: {reply:?}");
    }
    assert_eq!(server.get("/api/runs?serch=x").status, 400);
    assert_eq!(server.get("/api/compare?a=x").status, 400);
}

#[test]
fn stalled_and_too_many_connections_end() {
    let server = Server::start();
    let ended = |mut stream: TcpStream| {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "a stalled connection stays"
        );
    };
    let mut half = server.connect();
    half.write_all(b"GET / HTTP/1.1\r\nhost: 127").unwrap();
    let silent = server.connect();
    // Bytes that trickle in do not prolong the time.
    let mut trickle = server.connect();
    let begun = Instant::now();
    while trickle.write_all(b"G").is_ok() && begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    ended(half);
    ended(silent);

    let held: Vec<TcpStream> = (0..limits().connections)
        .map(|_| server.connect())
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(read(server.connect()).status, 503);
    drop(held);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/api/runs").status, 200);

    let huge = format!(
        "GET / HTTP/1.1\r\nhost: {}\r\nx: {}\r\n\r\n",
        server.address,
        "y".repeat(1 << 20)
    );
    assert_ne!(server.raw(huge.as_bytes()).status, 200);
}

#[test]
fn elsewhere_a_token_is_asked_for() {
    let server = Server::start_with(Ipv4Addr::UNSPECIFIED, None);
    let token = server.token.clone().unwrap();
    assert!(token.len() >= 32);
    let none = [("authorization", "")];
    for path in [
        "/",
        "/api/runs",
        "/assets/main.js",
        "/?token=wrong",
        "/api/runs?token=x",
    ] {
        assert_eq!(server.send("GET", path, &none, "").status, 401, "{path}");
    }
    let wrong = [("authorization", "Bearer wrong")];
    assert_eq!(server.send("GET", "/api/runs", &wrong, "").status, 401);
    let first = server.send("GET", &format!("/?token={token}"), &none, "");
    assert_eq!(first.status, 303, "{first:?}");
    assert!(
        first.head.contains("httponly; samesite=strict"),
        "{first:?}"
    );
    let line = first
        .head
        .lines()
        .find(|line| line.starts_with("set-cookie: "))
        .unwrap();
    let cookie = line["set-cookie: ".len()..].split(';').next().unwrap();
    assert!(!cookie.contains(&token));
    let with = [("authorization", ""), ("cookie", cookie)];
    assert_eq!(server.send("GET", "/api/runs", &with, "").status, 200);
    // The cookie alone starts nothing: another site could make the browser send it.
    let crossed = [
        ("authorization", ""),
        ("cookie", cookie),
        ("x-studio-csrf", ""),
    ];
    assert_eq!(server.send("POST", "/api/runs", &crossed, "{}").status, 403);
    let named = [("host", "evil.example:80")];
    assert_eq!(server.send("GET", "/api/runs", &named, "").status, 403);
    let options = modelsmith_studio::Options {
        token: Some("short".to_owned()),
        ..modelsmith_studio::Options::new(server.path("more")).unwrap()
    };
    assert_eq!(
        modelsmith_studio::Studio::bind(options)
            .err()
            .unwrap()
            .exit_code(),
        2
    );
}

#[test]
fn answers_bring_no_foreign_code() {
    let server = Server::start();
    for path in ["/", "/assets/main.js", "/api/runs", "/nothing"] {
        let reply = server.get(path);
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
        ] {
            assert!(reply.head.contains(header), "{path}: {reply:?}");
        }
    }
    server.finished("a", 4);
    std::fs::write(server.runs.join("a/report.html"), "<script>1</script>").unwrap();
    let report = server.get("/api/runs/a/report");
    assert_eq!(report.status, 200);
    assert!(
        report
            .head
            .contains("content-security-policy: sandbox allow-scripts"),
        "{report:?}"
    );
    for file in [
        "main.js",
        "api.js",
        "dom.js",
        "chart.js",
        "form.js",
        "runs.js",
        "run.js",
        "style.css",
    ] {
        let reply = server.get(&format!("/assets/{file}"));
        assert_eq!(reply.status, 200, "{file}");
        let foreign = reply.body.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !foreign.contains("http://") && !foreign.contains("https://"),
            "{file}"
        );
        assert!(!foreign.contains("innerHTML"), "{file}");
    }
}
