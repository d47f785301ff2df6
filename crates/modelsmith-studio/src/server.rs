//! The listener: connections within limits, each served by the guarded routes.

use crate::guard::Gate;
use crate::jobs::Jobs;
use crate::{routes, secret};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::make_folder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Largest head of a request in bytes.
const HEAD_BYTES: usize = 16 << 10;
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Where and what the studio serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; one that other machines reach makes a token necessary.
    pub bind: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Folder that holds the run folders.
    pub runs: PathBuf,
    /// Token that visitors must know; a random one is made where one is needed and none is given.
    pub token: Option<String>,
    /// The program that runs are started with.
    pub program: PathBuf,
    /// Bounds on what visitors may take.
    pub limits: Limits,
}

impl Options {
    /// This machine only, a free port, the program at hand.
    ///
    /// # Errors
    /// The path of the running program is unknown.
    pub fn new(runs: PathBuf) -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| Error::io("this program", error))?;
        Ok(Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            runs,
            token: None,
            program,
            limits: Limits::default(),
        })
    }
}

/// Bounds on what visitors may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time in which the head of a request must have come; idle connections are closed after it.
    pub head: Duration,
    /// Time in which the body of a request must have come.
    pub body: Duration,
    /// Largest body in bytes.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            body_bytes: 1 << 20,
        }
    }
}

/// What requests share.
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    pub(crate) runs: PathBuf,
    pub(crate) jobs: Jobs,
    /// One text generation at a time: a model fills memory and all cores.
    pub(crate) generation: Semaphore,
}

/// A studio that holds its port.
pub struct Studio {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    shared: Arc<Shared>,
}

impl Studio {
    /// Takes the port and makes the folder of runs.
    ///
    /// # Errors
    /// A port that is taken, a weak token, a folder that cannot be made.
    pub fn bind(options: Options) -> Result<Self> {
        make_folder(&options.runs)?;
        let runs = options
            .runs
            .canonicalize()
            .map_err(|error| Error::io(&options.runs, error))?;
        let token = match &options.token {
            Some(token) => Some(secret::chosen(token)?.to_owned()),
            None if options.bind.is_loopback() => None,
            None => Some(secret::random()?),
        };
        let wanted = SocketAddr::new(options.bind, options.port);
        let failed = |error| Error::io(format!("address {wanted}"), error);
        let listener = TcpListener::bind(wanted).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Shared {
            gate: Gate::new(address, token, options.limits)?,
            jobs: Jobs::new(options.program, &runs),
            runs,
            generation: Semaphore::new(1),
        };
        Ok(Self {
            listener,
            address,
            limits: options.limits,
            shared: Arc::new(shared),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token that visitors must know, where one is asked for.
    pub fn token(&self) -> Option<&str> {
        self.shared.gate.token()
    }

    /// The address to open in a browser, with the token where one is asked for.
    pub fn url(&self) -> String {
        let mut shown = self.address;
        if shown.ip().is_unspecified() {
            shown.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        match self.token() {
            Some(token) => format!("http://{shown}/?token={token}"),
            None => format!("http://{shown}/"),
        }
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// The system refuses threads or the socket.
    pub fn serve(self) -> Result<()> {
        let failed = |error| Error::Failed(format!("studio: {error}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(self.limits.connections + 4)
            .enable_all()
            .build()
            .map_err(failed)?;
        runtime.block_on(self.accept()).map_err(failed)
    }

    async fn accept(self) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let slots: &'static Semaphore =
            Box::leak(Box::new(Semaphore::new(self.limits.connections)));
        let router = routes::router(&self.shared);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => match slots.try_acquire() {
                    Ok(slot) => {
                        tokio::spawn(connection(stream, router.clone(), self.limits, slot));
                    }
                    Err(_) => {
                        tokio::spawn(refuse(stream));
                    }
                },
                // Out of descriptors, most likely: some connection will end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    slot: SemaphorePermit<'static>,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A visitor who leaves or stalls is no failure of the studio.
    let _ = served.await;
    drop(slot);
}

async fn refuse(mut stream: TcpStream) {
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(BUSY)).await;
}
