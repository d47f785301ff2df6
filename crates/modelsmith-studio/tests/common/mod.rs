//! A studio on a free port, and plain HTTP by hand: what a browser would never send is sent too.

#![allow(dead_code, reason = "each test file uses a part of it")]

use modelsmith_studio::{Limits, Options, Studio};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Stands in for the program: a run that writes a line every few milliseconds and heeds SIGTERM,
/// and a resume that ends it.
const PROGRAM: &str = r#"#!/bin/sh
case "$1" in
run)
    name=$(basename "$2" .toml)
    dir=$(dirname "$(dirname "$2")")/$name
    mkdir -p "$dir" && cp "$2" "$dir/recipe.toml"
    trap 'exit 143' TERM
    step=0
    echo "begun"
    while :; do
        step=$((step + 1))
        echo "{\"kind\":\"train\",\"step\":$step,\"loss\":1.5}" >> "$dir/metrics.jsonl"
        sleep 0.02
    done ;;
tune)
    echo "resumed $2"
    echo '{"kind":"eval","step":99,"loss":0.5}' >> "$3/metrics.jsonl"
    echo '{"steps":99,"loss_after":0.5}' > "$3/summary.json" ;;
esac
"#;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) runs: PathBuf,
    pub(crate) token: Option<String>,
    csrf: String,
    dir: TempDir,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        connections: 8,
        head: Duration::from_millis(500),
        body: Duration::from_millis(500),
        ..Limits::default()
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(Ipv4Addr::LOCALHOST, None)
    }

    pub(crate) fn start_with(bind: Ipv4Addr, token: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, PROGRAM).unwrap();
        make_executable(&program);
        std::fs::create_dir(dir.path().join("host")).unwrap();
        std::fs::write(dir.path().join("data.txt"), "text").unwrap();
        std::fs::write(dir.path().join("secret.txt"), "top secret").unwrap();
        let runs = dir.path().join("runs");
        let options = Options {
            bind: bind.into(),
            token: token.map(str::to_owned),
            program,
            limits: limits(),
            ..Options::new(runs.clone()).unwrap()
        };
        let studio = Studio::bind(options).unwrap();
        let mut address = studio.address();
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let token = studio.token().map(str::to_owned);
        std::thread::spawn(move || studio.serve().unwrap());
        let mut server = Self {
            address,
            runs,
            token,
            csrf: String::new(),
            dir,
        };
        server.csrf = server.read_csrf();
        server
    }

    fn read_csrf(&self) -> String {
        let page = self.get("/");
        assert_eq!(page.status, 200, "{page:?}");
        let (_, rest) = page.body.split_once("name=\"csrf\" content=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sends bytes as they are and reads to the end of the connection.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        // A refusal may come before all is written.
        let _ = stream.write_all(bytes);
        read(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![
            ("host".to_owned(), self.address.to_string()),
            ("connection".to_owned(), "close".to_owned()),
        ];
        if let Some(token) = &self.token {
            headers.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        headers
    }

    /// A request; headers of `other` replace or join the usual ones, an empty value takes one out.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        other: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut headers = self.headers();
        if method == "POST" {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
            headers.push(("content-length".to_owned(), body.len().to_string()));
            headers.push(("x-studio-csrf".to_owned(), self.csrf.clone()));
        }
        for (name, value) in other {
            headers.retain(|(known, _)| known != name);
            if !value.is_empty() {
                headers.push(((*name).to_owned(), (*value).to_owned()));
            }
        }
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        self.raw(format!("{text}\r\n{body}").as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[], body)
    }

    /// A form's body that starts a run.
    pub(crate) fn form(&self, name: &str) -> String {
        serde_json::json!({"name": name, "recipe": {
            "host": {"path": self.path("host")},
            "data": {"path": self.path("data.txt")},
            "method": {"name": "lora", "rank": 4},
        }})
        .to_string()
    }

    /// Writes a run folder as a finished run leaves it.
    pub(crate) fn finished(&self, name: &str, rank: u32) {
        let path = self.runs.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let recipe =
            format!("description = \"about {name}\"\n[method]\nname = \"lora\"\nrank = {rank}\n");
        std::fs::write(path.join("recipe.toml"), recipe).unwrap();
        let lines: String = (1..=5)
            .map(|step| {
                format!(
                    "{{\"kind\":\"train\",\"step\":{step},\"loss\":{}}}\n",
                    rank + step
                )
            })
            .collect();
        std::fs::write(path.join("metrics.jsonl"), lines).unwrap();
        std::fs::write(
            path.join("summary.json"),
            "{\"steps\":5,\"loss_after\":0.25}",
        )
        .unwrap();
    }

    /// The status of a run once it is `wanted`.
    pub(crate) fn wait(&self, name: &str, wanted: &str) {
        let begun = Instant::now();
        loop {
            let found = self.get(&format!("/api/runs/{name}")).json()["status"].clone();
            if found == wanted {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{name} is {found}, not {wanted}"
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

pub(crate) fn read(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A server that refuses early may close before it has read all; what it said counts.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    Reply {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}
